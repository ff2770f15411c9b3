"""The embedded default: a cluster of simulated GPUs with the real rules, in one SQLite file."""

from partita.drive.simulated.cluster import SimulatedCluster
from partita.drive.simulated.driver import SimulatedDriver
from partita.drive.simulated.faults import Fault, Mishap

__all__ = ["Fault", "Mishap", "SimulatedCluster", "SimulatedDriver"]
