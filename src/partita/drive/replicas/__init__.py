"""Replicas as processes of this host: started, watched and ended, whichever driver cuts the GPUs."""

from partita.drive.replicas.commands import CommandReady, PortReady, Process, Readiness, Upstream
from partita.drive.replicas.records import Record, Records
from partita.drive.replicas.runner import Runner, require_same

__all__ = [
    "CommandReady",
    "PortReady",
    "Process",
    "Readiness",
    "Record",
    "Records",
    "Runner",
    "Upstream",
    "require_same",
]
