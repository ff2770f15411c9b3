"""The embedded default: a cluster of simulated GPUs with the real rules, in one SQLite file."""

from partita.drive.simulated.cluster import SimulatedCluster
from partita.drive.simulated.driver import SimulatedDriver
from partita.drive.simulated.faults import Fault, Mishap
from partita.drive.simulated.seconds import SECONDS

__all__ = ["SECONDS", "Fault", "Mishap", "SimulatedCluster", "SimulatedDriver"]
