"""What programs say when memory ran out, and the kernel when a GPU failed: patterns for their output."""

OUT_OF_MEMORY = (
    r"torch\.(cuda\.)?OutOfMemoryError|CUDA out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|RESOURCE_EXHAUSTED: .*[Oo]ut of memory|Failed to allocate memory for requested buffer"
)
HOST_OUT_OF_MEMORY = r"MemoryError\b|std::bad_alloc|Cannot allocate memory|[Oo]ut of memory"
"""Said by Python, C++ and libc when the host's memory ran out, or a limit that we set."""

XID = r"\bXid\b.*: *\d+"
