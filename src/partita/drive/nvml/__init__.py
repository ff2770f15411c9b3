"""Real GPUs on this host, through nvidia-ml-py."""

from partita.drive.nvml.driver import NvmlDriver

__all__ = ["NvmlDriver"]
