"""Real GPUs on this host, through nvidia-ml-py."""

from partita.drive.nvml.commands import CommandReady, PortReady, Process, Upstream
from partita.drive.nvml.driver import NvmlDriver

__all__ = ["CommandReady", "NvmlDriver", "PortReady", "Process", "Upstream"]
