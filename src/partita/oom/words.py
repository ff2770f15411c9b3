"""What programs say when a GPU's memory ran out, and what looks like it: patterns for one line of output.

A line speaks of a GPU's memory if it names an error that only that has (`CUDA_ERROR_OUT_OF_MEMORY`), or if it says
that memory ran out *and* whose: a library or device of a GPU. What says that memory ran out and names the host is the
host's; what names nobody is judged by what stands around it.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory
if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS = re.IGNORECASE

# Names of errors. CUDA (driver_types.h, cuda.h), its libraries, HIP, OpenCL, Vulkan, NVENC: all have an enumerator
# that says so. In the middle of a longer identifier, as in the name of a test, it is no error.
_NAMED = (
    r"(?<![\w/:-])(?-i:CUDA|cuda|CU|cu|hip|HIP|CN|VK|NV|NPP|NVJPEG|nvjpeg|AF|CL)[A-Za-z]*_?\w*?(?:"
    r"OUT_?OF_?(?:DEVICE_?|POOL_?)?MEMORY|MEMORY_?ALLOCATION|MEM_OBJECT_ALLOCATION_FAIL"
    r"|ALLOC(?:ATION|ATOR)?_?FAIL|ERR_NO_MEM)\w*"
    r"|(?<![\w/:-])(?-i:ErrorOutOfDeviceMemory|OutOfDeviceMemory\w*|OutOfGPUMemory\w*|Gpu(?:Retry"
    r"|SplitAndRetry)OOM)"
)

# Error 2 of the driver and of the runtime is cudaErrorMemoryAllocation; cuFFT, cuSPARSE, cuSOLVER and cuDNN have
# ALLOC_FAILED there, too.
_CODE_2 = (
    r"(?<![\w/])(?-i:CUDA|Cuda|cuda\w*|cu[A-Z]\w+|CUFFT\w*|CUDNN\w*|nccl\w*|NCCL|THCudaCheck|hip[A-Z]\w+)\b"
    r"[^\n]{0,160}?\b(?:errors?|fail(?:ure|ed)|err|code|status|retval|returned|result|res)\b[\s:=#(\[]*"
    r"(?:errors?|code|status)?[\s:=#(\[]*2\b(?![.\d%])"
    r"|\[2\] call to cu\w+|\(2 vs\.? 0\)"
)

# Said by one library, in words that are its own.
_SAYINGS = (
    r"no executable batch size found",  # accelerate has halved the batch down to nothing
    r"no available memory for the cache blocks",  # vLLM: the weights have left no room
    r"failed to allocate memory for requested buffer",  # ONNX Runtime's arena
    r"available memory of \d+ is smaller than requested",  # the same, before it grows
    r"oom when allocating tensor",  # TensorFlow
    r"failed to cuda (?:calloc|malloc)",  # NCCL
    r"memory object allocation failure",  # OpenCL, as Boost.Compute says it
    r"allocate: \d+ bytes requested; status = 2\b",  # CUDA Fortran, for arrays on the device
)

_SURE = re.compile("|".join((_NAMED, _CODE_2, *_SAYINGS)), FLAGS)

_UNSURE = re.compile(
    r"CUBLAS_STATUS_ALLOC_FAILED"  # labels out of range end so, too
    r"|CUSPARSE_STATUS_INSUFFICIENT_RESOURCES"
    r"|larger than the available KV cache memory|tokens that can be stored in (?:the )?KV cache"
    r"|is less than desired GPU memory utilization"
    r"|NVML_SUCCESS == r\w*\W+INTERNAL ASSERT FAILED"  # PyTorch fails at telling of an out-of-memory on MIG
    r"|unable to find (?:a valid cuDNN algorithm|an engine to execute)"
    r"|dst tensor is not initialized"  # TensorFlow, where a copy to the GPU found no room
    r"|unable to create stream: out of memory|OpenEncodeSessionEx failed"
    r"|enough (?:free )?(?:GPU|device|CUDA|video)[ -]?(?:RAM|memory) to fit"
    r"|RaiseOutOfResources|CL_OUT_OF_RESOURCES",
    FLAGS,
)

_SIZE = r"(?:memory|bytes|buffer|tensor|KV|pool|arena|storage|array|matrix|workspace|[KMGT]i?B\b)"

# That memory ran out, whosever.
_MEMORY = re.compile(
    r"\b(?:out|run out|ran out)[ _-]?of[ _-](?:\S+[ _-]){0,3}?memory\b|\bout[ _]?of[ _]?memory"
    r"|(?<![a-z])OutOf\w*Memory"
    r"|\bOOM\b"
    r"|\bnot? (?:enough|available|free|sufficient|remaining)\b(?: \S+){0,4}? (?:memory|VRAM)\b"
    r"|\bno (?:\S+ )?memory (?:left|available)\b|\bmemory (?:is |was )?(?:insufficient|not (?:enough"
    r"|sufficient))"
    r"|\binsufficient (?:\S+ ){0,3}?(?:memory|VRAM)"
    r"|\b(?:memory|VRAM)\b (?:\S+ )??(?:exhausted|alloc(?:ation)?s? (?:has |have )?(?:fail\w*|error))"
    r"|\b(?:fail(?:s|ed|ure|ing)?|unable|can ?not|can.t|could ?n.t|could not|error)(?: (?:to|in|while|at"
    r"|be))?"
    rf" (?:\w+ )?(?:re|m)?alloc\w*\b(?=.*{_SIZE})|\b(?:memory|pool|buffer)\b.*\bcould ?n(?:.t|ot) be alloc"
    rf"|\b(?:re|m|c)?alloc\w*\b(?: \S+){{0,12}}? (?:has )?fail(?:ed|ure)\b(?=.*{_SIZE})"
    rf"|{_SIZE}.*\balloc\w* fail"
    r"|\balloc\w* (?:\S+ ){0,6}?would exceed|\bexceed(?:s|ed|ing)? (?:\S+ ){0,4}?memory\b|\bbad[_ ]?alloc\w*"
    r"|(?<!\w)\w*MemoryError\b"
    r"|\bpool size exceeded|\brequires? (?:\S+ ){0,6}?more (?:\S+ ){0,2}?memory"
    r"|\bmemory allocation of \d+ bytes failed"
    r"|\bexceed(?:s|ed)? (?:the )?(?:\S+ ){0,3}?VRAM",
    FLAGS,
)

# Whose memory it is: libraries, files and devices of GPUs.
_DEVICE = re.compile(
    r"(?-i:\bCUDA|Cuda|\bcuda|\bcu(?:Mem|Ctx|Launch|Init|Device|Stream|Module|Array|DNN|BLAS|FFT|SPARSE"
    r"|SOLVER|RAND|Tensor"
    r"|dnn|blas|fft|sparse|solver|rand)\w*|\bHIP\b|\bhip[A-Z]\w+|ROCm|\bTHC\w*|\bXLA\b|\bJax\w*|\bTRT\b"
    r"|\bTPU\b)"
    r"|\bGPUs?\b|\bgpu|[a-z]gpu\b|\bvram\b|\bdevices?\b|\baccelerator\b|\bthrust\b|\bxla\b|\bjaxlib\b"
    r"|tensorflow"
    r"|RESOURCE_?EXHAUSTED|ResourceExhausted|resource exhausted:"
    r"|\brmm\b|TensorRT|\bnvinfer\w*|nvrtc|\.cuh?\b|\bgeryon\b|\bOptiX\b|\bnccl\w*|\bcupy\b|\bnumba\b"
    r"|\bpycuda\b|\bpynvml\b"
    r"|\bbfc|\bOpenCL\b|\bwgpu\b|ONNXRuntimeError|\bmps backend|\bxpu\b|parallel_for failed"
    r"|virtualMemoryBuffer",
    FLAGS,
)

# What belongs to the host: its memory, its kernel, its languages and data bases, its compilers and its disks.
_HOST = re.compile(
    r"\b(?:host|system|physical|virtual|main|shared|pinned|page-?locked|CPU) memory\b|\bCPU\b|\bcpu\b"
    r"|CPUAllocator|alloc_cpu"
    r"|\bRAM\b|/dev/shm|\bshm\w*|\bswap\b|\bheap\b|\bjava\.|JavaScript|\bmmap|\bfork\b|\bposix_\w+"
    r"|\b(?:mkl_|je|tc|mi_|aligned_)?malloc\b|\brealloc\b"
    r"|\bcalloc\b|Errno 12|\(12\)|\bnumpy\b|ArrayMemoryError|oom[-_ ]?kill\w*|\bcgroup|\bcontainer\b|\bpod\b"
    r"|node running low|\bhugepage|\bulimit\b|\bsqlite\w*|\bpostgres\w*|\bmysql\w*|\bredis\b|\bduckdb\b"
    r"|\barrow\b|\bpolars\b"
    r"|\bbson\b|\bruntime: out of memory|\bcannot allocate vector of size|\bptxas\b|\bnvcc\b|\bcc1plus\b"
    r"|\bcollect2\b"
    r"|\bld\b:|\bgit\b|\btar\b|\bon host\b|\b(?:cuda|cuMem)\w*Host\w*|cudaMallocHost|\bOUT_OF_HOST_MEMORY",
    FLAGS,
)
_HOST_OF_GPU = re.compile(
    r"\b(?:pinned|page-?locked|host) memory\b|\bon host\b|\b(?:cuda|cuMem|hip)\w*Host\w*|cudaMallocHost"
    r"|CUDA_Host",
    FLAGS,
)
_SHARED = re.compile(
    # What a kernel asks of a multiprocessor, or a process of /dev/shm, is no want of a GPU's memory.
    r"shared memory|out of resource: |too many resources requested|LAUNCH_OUT_OF_RESOURCES|no space left"
    r"|disk quota"
    r"|out of memory (?:bounds|range)|memory leak|\bmake(?:\[\d+\])?: \*\*\*|\bninja: "
    r"|exit(?:ed)?(?: with)? (?:code|status)"
    r" ?:? ?2\b|Internal Error \((?!.*memory)|quota exceeded",
    FLAGS,
)

_ON_CPU = re.compile(r"device:CPU|by allocator (?:mkl_?)?cpu|cpu_device_storage|(?<!or )CPU memory", FLAGS)
"""Words that frameworks have for both, beside the device that they mean."""

# Told, and gone on from: it is no failure, or something is done about it.
_HANDLED = re.compile(
    r"not a failure|performance gains|skipping tactic|\b(?:halving|"
    r"retrying|skipping|reducing|decreasing|lowering|shrinking|splitting|falling back|recovering"
    r"|continuing|offloading|"
    r"ignoring|attempting to|trying (?:again|with|a smaller)|will (?:retry|try|be skipped)|fall(?:s"
    r"|ing)?[ -]back|recovered|"
    r"caught|handled|resuming)\b|\b(?:skipped|retried|survived)\b",
    FLAGS,
)
_ADVICE = re.compile(r"\b(?:try|consider|please|need to|needs? to|should|can|may|by|or)\b[^.!?;]*$", FLAGS)
_SUPPOSED = re.compile(
    # Before the words, in their sentence: what might be, what to do about it, what did not happen.
    r"\b(?:if|in case|whenever|avoids?|avoiding|prevents?|preventing|may|might|possibl[ey]|can(?! ?not"
    r"|.t)|could(?! ?n.t)"
    r"|would|risk|tips?|hint|how to|how do|fix(?:es|ed)?|mitigat\w+|simulat\w+|expect(?:s|ed)?"
    r"|assertRaises"
    r"|pytest\.raises|checks? for|in order to)\b[^.!?;]*$|\b(?:no|without|never|zero)(?: \S+){0,2} ?$|\b0 $",
    FLAGS,
)
_GUESSED = re.compile(r"\b(?:probably|likely|perhaps|maybe|seems?)\b[^.!?;]*$", FLAGS)
_ASKED = re.compile(r"\s*\?|[^.!;]*\?\s*[\"'}\]]*\s*$")

_XID = re.compile(r"\bXid\b.*: *\d+")

OOM, UNSURE, BARE, HOST = "oom", "unsure", "bare", "host"
"""What a line says of memory: a GPU's ran out; perhaps it did; somebody's did; the host's did."""


def memory(line: str) -> str | None:
    """Return what a line says of memory that ran out (`OOM`, `UNSURE`, `BARE`, `HOST`); None if nothing."""
    if not _worth_a_look(line) or _SHARED.search(line) or _handled(line):
        return None
    for pattern, said in ((_UNSURE, UNSURE), (_SURE, OOM)):
        if next(_meant(pattern, line), None):
            if _ON_CPU.search(line):
                return HOST
            return UNSURE if said == OOM and _HOST_OF_GPU.search(line) else said
    found = next(_meant(_MEMORY, line), None)
    if found is None:
        return None
    whose = _whose(line, found)
    return UNSURE if whose == OOM and _GUESSED.search(_sentence(line, found)) else whose


def named(line: str) -> bool:
    """Say whether a line speaks of a GPU at all."""
    return _DEVICE.search(line) is not None


def gpu_fault(line: str) -> bool:
    """Say whether a line is the kernel's report of a GPU's fault."""
    return "Xid" in line and _XID.search(line) is not None


def _worth_a_look(line: str) -> bool:
    # Plain words first: that is a hundred times as fast as the patterns.
    lower = line.lower()
    return any(hint in lower for hint in _HINTS)


# fmt: off
_HINTS = (
    "memory", "alloc", "oom", "2", "vram", "batch size found", "pool size", "_no_mem", "engine to execute",
    "kv cache", "cudnn algorithm", "tensor is not init", "nvml_success", "insufficient_res", "gpu ram", "out_of_res",
)
# fmt: on


def _handled(line: str) -> bool:
    """Say whether a line tells what is done about it, which is no advice to the reader."""
    return any(not _ADVICE.search(_sentence(line, found)) for found in _HANDLED.finditer(line))


def _sentence(line: str, found: re.Match[str]) -> str:
    """Return what stands before it in its sentence."""
    return re.split(r"[.!?;]\s|:\s", line[: found.start()])[-1]


def _meant(pattern: re.Pattern[str], line: str) -> Iterator[re.Match[str]]:
    """Yield what is found of a pattern and is said to have happened."""
    for found in pattern.finditer(line):
        if not _SUPPOSED.search(_sentence(line, found)) and not _ASKED.match(line, found.end()):
            yield found


def _whose(line: str, found: re.Match[str]) -> str:
    device, host = _DEVICE.search(line), _HOST.search(line)
    if device and not (host and _HOST_OF_GPU.search(line)):
        # Both are named: what stands nearer to the words.
        if host is None or abs(device.start() - found.start()) <= abs(host.start() - found.start()):
            return OOM
        return HOST
    return HOST if host else BARE
