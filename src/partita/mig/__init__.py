"""What a GPU can be cut into: the catalogue, placements and layouts (pure)."""

from partita.mig.gpu import Combination, GpuModel, Peak, Profile
from partita.mig.layout import Layout, Placement

__all__ = ["Combination", "GpuModel", "Layout", "Peak", "Placement", "Profile"]
