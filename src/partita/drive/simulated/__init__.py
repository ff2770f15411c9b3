"""The default driver: a cluster of simulated GPUs with the real rules, in one SQLite file."""

from partita.drive.simulated.actions import FaultKind, InjectedFault
from partita.drive.simulated.cluster import SimulatedCluster
from partita.drive.simulated.driver import SimulatedDriver

__all__ = ["FaultKind", "InjectedFault", "SimulatedCluster", "SimulatedDriver"]
