"""Recognizes in a program's output that a GPU's memory ran out.

A line counts as GPU memory if it has an error name that only GPU memory has (`CUDA_ERROR_OUT_OF_MEMORY`), or if it
says that memory ran out *and* names a library or device of a GPU. If it names the host instead, it counts as host
memory; if it names neither, the lines around it decide.
"""

from __future__ import annotations

import re
import signal
from contextlib import contextmanager

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


FLAGS = re.IGNORECASE

# Enumerators for out-of-memory of CUDA (driver_types.h, cuda.h), its libraries, HIP, OpenCL, Vulkan and NVENC. Inside
# a longer identifier, such as the name of a test, they are not an error.
_NAMED = (
    r"(?<![\w/:-])(?-i:CUDA|cuda|CU|cu|hip|HIP|CN|VK|NV|NPP|NVJPEG|nvjpeg|AF|CL)[A-Za-z]*_?\w*?(?:"
    r"OUT_?OF_?(?:DEVICE_?|POOL_?)?MEMORY|MEMORY_?ALLOCATION|MEM_OBJECT_ALLOCATION_FAIL"
    r"|ALLOC(?:ATION|ATOR)?_?FAIL|ERR_NO_MEM)\w*"
    r"|(?<![\w/:-])(?-i:ErrorOutOfDeviceMemory|OutOfDeviceMemory\w*|OutOfGPUMemory\w*|Gpu(?:Retry"
    r"|SplitAndRetry)OOM)"
)

# Error 2 of the CUDA driver and runtime is cudaErrorMemoryAllocation; in cuFFT, cuSPARSE, cuSOLVER and cuDNN it is
# ALLOC_FAILED.
_CODE_2 = (
    r"(?<![\w/])(?-i:CUDA|Cuda|cuda\w*|cu[A-Z]\w+|CUFFT\w*|CUDNN\w*|nccl\w*|NCCL|THCudaCheck|hip[A-Z]\w+)\b"
    r"[^\n]{0,160}?\b(?:errors?|fail(?:ure|ed)|err|code|status|retval|returned|result|res)\b[\s:=#(\[]*"
    r"(?:errors?|code|status)?[\s:=#(\[]*2\b(?![.\d%])"
    r"|\[2\] call to cu\w+|\(2 vs\.? 0\)"
)

# Messages of single libraries.
_SAYINGS = (
    r"no executable batch size found",  # accelerate: even the smallest batch did not fit
    r"no available memory for the cache blocks",  # vLLM: the weights leave no memory
    r"failed to allocate memory for requested buffer",  # ONNX Runtime's arena
    r"available memory of \d+ is smaller than requested",  # the same, before the arena grows
    r"oom when allocating tensor",  # TensorFlow
    r"failed to cuda (?:calloc|malloc)",  # NCCL
    r"memory object allocation failure",  # OpenCL, in the words of Boost.Compute
    r"allocate: \d+ bytes requested; status = 2\b",  # CUDA Fortran, for arrays on the device
)

_SURE = re.compile("|".join((_NAMED, _CODE_2, *_SAYINGS)), FLAGS)

_UNSURE = re.compile(
    r"CUBLAS_STATUS_ALLOC_FAILED"  # also raised for labels out of range
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

# Memory ran out, of a GPU or of the host.
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

# Words for GPUs: their libraries, files and devices.
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

# Words for the host: its memory, kernel, languages, databases, compilers and disks.
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
    # The shared memory of a multiprocessor and /dev/shm are not GPU memory.
    r"shared memory|out of resource: |too many resources requested|LAUNCH_OUT_OF_RESOURCES|no space left"
    r"|disk quota"
    r"|out of memory (?:bounds|range)|memory leak|\bmake(?:\[\d+\])?: \*\*\*|\bninja: "
    r"|exit(?:ed)?(?: with)? (?:code|status)"
    r" ?:? ?2\b|Internal Error \((?!.*memory)|quota exceeded",
    FLAGS,
)

_ON_CPU = re.compile(r"device:CPU|by allocator (?:mkl_?)?cpu|cpu_device_storage|(?<!or )CPU memory", FLAGS)
"""A framework's message about either memory, with the CPU as its device."""

# The program handles it: it is not a failure, or the program reacts to it.
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
    # Words before the match in its sentence: something possible, advice, or something that did not happen.
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
"""Which memory ran out by a line: a GPU's; perhaps a GPU's; it does not say; the host's."""


def memory(line: str) -> str | None:
    """Return which memory ran out by a line (`OOM`, `UNSURE`, `BARE`, `HOST`); None if none did."""
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
    """Return whether a line mentions a GPU."""
    return _DEVICE.search(line) is not None


def gpu_fault(line: str) -> bool:
    """Return whether a line is the kernel's report of a GPU fault (Xid)."""
    return "Xid" in line and _XID.search(line) is not None


def _worth_a_look(line: str) -> bool:
    # Plain substrings are a hundred times as fast as the patterns.
    lower = line.lower()
    return any(hint in lower for hint in _HINTS)


# fmt: off
_HINTS = (
    "memory", "alloc", "oom", "2", "vram", "batch size found", "pool size", "_no_mem", "engine to execute",
    "kv cache", "cudnn algorithm", "tensor is not init", "nvml_success", "insufficient_res", "gpu ram", "out_of_res",
)
# fmt: on


def _handled(line: str) -> bool:
    """Return whether a line says that the program handles it; advice to the reader does not count."""
    return any(not _ADVICE.search(_sentence(line, found)) for found in _HANDLED.finditer(line))


def _sentence(line: str, found: re.Match[str]) -> str:
    """Return the part of the sentence before a match."""
    return re.split(r"[.!?;]\s|:\s", line[: found.start()])[-1]


def _meant(pattern: re.Pattern[str], line: str) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern that the line says happened."""
    for found in pattern.finditer(line):
        if not _SUPPOSED.search(_sentence(line, found)) and not _ASKED.match(line, found.end()):
            yield found


def _whose(line: str, found: re.Match[str]) -> str:
    device, host = _DEVICE.search(line), _HOST.search(line)
    if device and not (host and _HOST_OF_GPU.search(line)):
        # If both are named, the nearer one counts.
        if host is None or abs(device.start() - found.start()) <= abs(host.start() - found.start()):
            return OOM
        return HOST
    return HOST if host else BARE


MOST_LINE = 1000
"""Characters of a line that are read."""

_MESSAGE = 5

MEMORY, ERROR, VAGUE, PROGRESS, FAULT = "memory", "error", "vague", "progress", "fault"
"""Kinds of line: memory ran out, another error, an error without a cause of its own, a sign that the program went on,
or the report of a GPU fault."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_AROUND = re.compile(
    r"\s*(?:\[(?:rank|default|node|worker|proc)?\s?\d+(?:,\d+)?\](?:<std(?:err"
    r"|out)>)?\s?:"  # torchrun, mpirun
    r"|\((?:[A-Z]\w*)(?: [\w=.:-]+)*(?: ?pid=\d+)(?:, ip=[\d.]+)?\)"  # vLLM, Ray
    r"|\d{1,4}: (?=\D)|[\w.-]+-\d+\s+\| "  # srun --label, docker compose
    r"|\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?:?"
    r"|\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\]"
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?|\[[\w./-]+:\d+\]|[\w./-]+\.(?:cc|cpp|py|cu):\d+\]"
    r"|(?P<level>[IWEF])\d{4} \d\d:\d\d:\d\d(?:\.\d+)?\s+\d+\s|(?P<word>\[?(?:DEBUG|INFO|NOTICE"
    r"|WARN(?:ING)?|ERROR|FATAL"
    r"|CRITICAL)\]?:?)(?=\s)(?: \d\d-\d\d \d\d:\d\d:\d\d)?|(?P<letter>\[?[IWEF]\]?)(?= (?:\[|\w+/))"
    r"|\[TRT(?:-LLM)?\]|- |\|)\s?"
)

_TRACEBACK = re.compile(
    r"\s*(?:\+ )?(?:Exception Group )?Traceback \(most recent call last\):|\s*Stack(?: ?trace)?:?\s*$"
)
_CHAINED = re.compile(
    r"\s*(?:During handling of the above exception|The above exception was the direct cause)"
)
_EXCEPTION = re.compile(
    r"(?P<type>(?:[A-Za-z_]\w*(?:\.|::))*[A-Za-z_]\w*?(?:Error|Exception|Exit|Interrupt|Fault|Failure"
    r"|Expired|OOM|Abort)"
    r"\w*(?:\([\w, ]*\))?)(?:$|:(?:\s+|$)(?P<told>.*))"
)
_WARNING = re.compile(r"\S*Warning:|.*\.py:\d+: \w*Warning|\s*warnings?\b|WARN", re.IGNORECASE)

# Exceptions that are a consequence: of another process, a connection, or the end itself.
_CONSEQUENT = re.compile(
    r"(?:\w+\.)*(?:SystemExit|KeyboardInterrupt|BrokenPipeError|Connection\w*Error|EOFError"
    r"|CalledProcessError|ChildFailedError"
    r"|Process\w*Exception|Broken\w*Pool|Ray(?:Actor|Task)Error\S*|ActorDiedError|Engine\w*Error"
    r"|Worker\w*Error|LocalEntry\w+"
    r"|Future\w*|CancelledError|NCCLError|DistBackendError|DistNetworkError|DistStoreError|Subprocess\w*"
    r"|SignalException"
    r"|LoadError)$"
)
_VAGUE = re.compile(
    r"\bfail|\bunable\b|\bcould n.t\b|\bcannot\b|\bcan.t\b|\babort|\bterminat|\bexit|\breturned\b"
    r"|\bdied\b|\bdead\b|\bcrash"
    r"|\blost\b|\bclosed\b|\bbroken\b|\bkilled\b|\bcore dumped\b|\bnon-?zero\b|\babove\b"
    r"|\bsee (?:the )?(?:log|stack|root)"
    r"|\bunhandled\b|\bworker|\bsubprocess|\bchild\b|\bengine\b|\binitiali[sz]|\bload|\bconnection\b"
    r"|\bEOF\b|\bassertion\b"
    r"|\berror code\b|\bsegmentation fault\b|\bfatal\b|\bnot (?:available|initiali[sz]ed)\b"
    r"|\binternal error\b|^\W*$",
    re.IGNORECASE,
)
_OF_ITS_OWN = re.compile(
    # A cause unrelated to memory, whatever else the line says.
    r"no such file|not found|\binvalid\b|\billegal\b|permission|denied|undefined|unrecogni[sz]ed|syntax"
    r"|usage:|mismatch"
    r"|out of range|\bmust be\b|\bmissing\b|unsupported|not supported|not implemented|\bnan\b|\bECC\b"
    r"|device-side assert"
    r"|misaligned|timed? ?out|refused|unreachable|quota|no space|disk|signal(?:s\.)?\s*(?:9|11|SIGKILL)"
    r"|\bsigkill\b|\bsigsegv\b"
    r"|\bexit ?codes?\W+-9|return code = -9|unauthori[sz]ed|\b40[134]\b|gated|no module|cannot import"
    r"|no attribute|unexpected"
    r" keyword|not defined|no kernel image|version|driver|could not find (?:a |the )?(?:model|file"
    r"|config)|does not exist",
    re.IGNORECASE,
)
_ERRORISH = re.compile(
    r"\berrors?\b|\bfatal\b|\bfail(?:ed|ure)?\b|\bexception\b|\babort(?:ed|ing)?\b|\bpanic(?:ked)?\b"
    r"|\bassertion\b|core dumped"
    r"|segmentation fault|\bterminate called\b|\bcannot\b|\bcould not\b|\bunable to\b|\bkilled\b"
    r"|\bbus error\b|^\*\*\*",
    re.IGNORECASE,
)
_AFTER = re.compile(
    # Messages of libraries while a program ends, whatever the cause.
    r"\s*(?:Loss logged|For debugging|Compile with|CUDA kernel errors"
    r"|If reserved|See documentation|Process \S+:$|Current (?:thread|device)|Please )"
    r"|.*destroy_process_group|.*resource_tracker"
    r"|.*leaked \w+ objects|\s*(?:frame #|@ +0x|#\d+ |\[bt\]|\d+ +0x)|.*Stack ?[tT]race|.*TORCH_"
    r"|.*CUDA_LAUNCH_BLOCKING"
    r"|.*Sending process|.*SIGTERM|\s*(?:slurmstepd|srun|mpirun|make)\b|.*Primary job +terminated|\s*-{5,}"
)
_OTHERS = re.compile(r"\s*(?:wandb|mlflow|comet|clearml|aim)\b|.*(?:wandb|W&B)|\++ |\$ ")
"""Output that experiment trackers repeat, and commands echoed by a shell."""
_IGNORED = re.compile(r"\s*Exception ignored in|.*sys\.unraisablehook")

_STEP = re.compile(
    r"(?:^|[\s\[(|,;])(?:epochs?|steps?|iter(?:ation)?s?|batch(?:es)?|rounds?|episodes?|generations?"
    r"|frames?|samples?|tokens?"
    r"|chunks?|folds?|trials?|timesteps?|it|update|eval)\b[\s:=#\[(]{0,3}\d"
    r"|\b(?:loss|acc(?:uracy)?|ppl|perplexity|lr|reward|bleu|auc)\b\s*[=:]?\s*-?\d"
    r"|\d(?:\.\d+)? ?(?:it/s|s/it|steps?/s|samples/s|tok(?:ens)?/s)|\b(?:saved?|saving|wrote"
    r"|writing) (?:\S+ )*?checkpoint"
    r"|\bresum(?:ed|ing)\b|\bretry(?:ing)?\b|\bretried\b|\btrying again\b|\bcontinuing\b|\brecovered\b"
    r"|\bsucceeded\b",
    re.IGNORECASE,
)
_BAR = re.compile(r"(\d{1,3})%\|.*?\| *([\d.]+)\w?/")


class Event:
    """A line with a meaning.

    Attributes:
        line: its number, from 1.
        text: the line without prefixes such as time and rank.
        kind: `MEMORY`, `ERROR`, `VAGUE`, `PROGRESS` or `FAULT`.
        says: which memory ran out: `OOM`, `UNSURE`, `BARE` or `HOST`.
        raised: whether it is the last line of a traceback.
        cause: the exception from which, or during whose handling, it was raised.
        direct: whether it was raised from `cause`.
    """

    __slots__ = ("cause", "direct", "kind", "line", "raised", "says", "text")

    def __init__(
        self, line: int, text: str, kind: str, says: str | None = None, *, raised: bool = False
    ) -> None:
        self.line, self.text, self.kind, self.says, self.raised = line, text, kind, says, raised
        self.cause: Event | None = None
        self.direct = False


class _Speaker:
    """State of one source of mixed output: a rank, a worker, or all lines without a label."""

    __slots__ = ("chained", "direct", "frames", "ignored", "last", "open")

    def __init__(self) -> None:
        self.frames = self.ignored = self.chained = self.direct = False
        self.last: Event | None = None
        self.open = 0  # lines that may still belong to the last exception's message


def near(text: str, line: int, first: int) -> bool:
    """Return whether the lines around a line have an error of a GPU."""
    lines = text.split("\n")[max(line - first - 4, 0) : line - first + 3]
    return any(named(each) and _ERRORISH.search(each) for each in lines)


def events(text: str, first: int = 1) -> list[Event]:
    """Return the events of an output, in order.

    Args:
        text: the output, or its end.
        first: number of its first line.
    """
    found: list[Event] = []
    speakers: dict[str, _Speaker] = {}
    most = 0.0
    for number, line in _lines(text, first):
        label, told, level = _bare(line)
        speaker = speakers.setdefault(label, _Speaker())
        bar = _BAR.search(told)
        if bar:
            # Progress bars are redrawn when a program ends, so only an advance counts.
            done = float(bar[2].rstrip("."))
            if done > most > 0.0:
                found.append(Event(number, told, PROGRESS))
            most = max(most, done)
            continue
        event = _event(number, told, level, speaker)
        if event is not None:
            found.append(event)
    return found


def _lines(text: str, first: int) -> Iterable[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), first):
        for part in _ESCAPES.sub("", line).split("\r"):
            if part.strip():
                yield number, part[:MOST_LINE]


def _bare(line: str) -> tuple[str, str, str]:
    """Return the label of a line's source, its text, and its log level (I, W, E, F, or empty)."""
    label, level = "", ""
    for _ in range(6):
        found = _AROUND.match(line)
        if not found or found.end() == 0:
            break
        around = found.group()
        grave = found["level"] or found["word"] or found["letter"]
        if grave:
            level = {"D": "I", "N": "I", "C": "F"}.get(
                grave.strip("[]:")[0].upper(), grave.strip("[]:")[0].upper()
            )
        elif "pid=" in around or "]:" in around or "]<" in around or around.strip().endswith("|"):
            label += around.strip()
        line = line[found.end() :]
    return label, line, level


def _event(number: int, told: str, level: str, speaker: _Speaker) -> Event | None:
    if gpu_fault(told):
        return Event(number, told, FAULT)
    if _in_traceback(told, speaker):
        return None
    if speaker.open and speaker.last is not None:
        speaker.open -= 1
        if told.startswith((" ", "\t")) and memory(told) is None:
            _lengthen(speaker.last, told)
            return None
        speaker.open = 0
    found = _EXCEPTION.match(told.strip()) if not told.startswith(" " * 8) or speaker.frames else None
    raised, speaker.frames = speaker.frames, False
    if raised or found:
        event = _exception(number, told.strip(), found, raised=raised, level=level)
        if speaker.ignored:
            speaker.ignored = False
            return None
        if event is not None and speaker.chained:
            event.cause, event.direct = speaker.last, speaker.direct
        speaker.chained = False
        speaker.last = event or speaker.last
        speaker.open = _MESSAGE if event is not None else 0
        return event
    return _plain(number, told, level)


def _in_traceback(told: str, speaker: _Speaker) -> bool:
    """Update the state by a line around exceptions; return whether it is one."""
    if _IGNORED.match(told):
        speaker.ignored = True
        return True
    if _CHAINED.match(told):
        speaker.chained, speaker.direct = True, "direct cause" in told
        return True
    if _TRACEBACK.match(told):
        speaker.frames = True
        return True
    return speaker.frames and (told.startswith((" ", "\t", "|")) or not told.strip())


def _exception(
    number: int, text: str, found: re.Match[str] | None, *, raised: bool, level: str
) -> Event | None:
    says = memory(text)
    if says is not None:
        if says == BARE:
            says = _of_type(found)
        return Event(number, text, MEMORY, says, raised=raised)
    if not raised and level in ("I", "W"):
        return None
    name = (found["type"] if found else text.partition(":")[0]).strip()
    told = (found["told"] or "") if found else text
    if _CONSEQUENT.match(name) and not _OF_ITS_OWN.search(told):
        return Event(number, text, VAGUE, raised=raised)
    if _VAGUE.search(told) and not _OF_ITS_OWN.search(told):
        return Event(number, text, VAGUE, raised=raised)
    return Event(number, text, ERROR, raised=raised)


def _lengthen(event: Event, told: str) -> None:
    """Add another line of an exception's message, which may make it vague."""
    if event.kind == ERROR and _VAGUE.search(told) and not _OF_ITS_OWN.search(told):
        event.kind = VAGUE


def _of_type(found: re.Match[str] | None) -> str:
    """Return which memory ran out by an exception's type: `RuntimeError` of frameworks, `MemoryError` of Python."""
    name = found["type"].rpartition(".")[2] if found else ""
    if name in ("RuntimeError", "OutOfMemoryError"):
        return OOM
    return HOST if name == "MemoryError" else BARE


def _plain(number: int, told: str, level: str) -> Event | None:
    """Return the event of a line outside exceptions."""
    text = told.strip()
    if level == "I":
        return Event(number, text, PROGRESS) if _STEP.search(told) else None
    if _OTHERS.match(told):
        return None
    mild = level == "W" or _WARNING.match(text) is not None
    says = memory(text)
    if says is not None:
        return Event(number, text, MEMORY, UNSURE if says == OOM and mild and "NCCL" not in text else says)
    if _AFTER.match(told):
        return None
    if not mild and (level in ("E", "F") or _ERRORISH.search(text)):
        return Event(number, text, ERROR if _OF_ITS_OWN.search(text) else VAGUE)
    progress = not told.startswith("    ") and _STEP.search(told)
    return Event(number, text, PROGRESS) if progress else None


END = 256 * 1024
"""Bytes at the end of an output that are read."""

DONE, OUT_OF_MEMORY, FAILED = "done", "out-of-memory", "failed"

NEAR = 0.95
"""Fraction of a slice's memory from which it counts as nearly full."""

MOST_TEXT = 300
"""Characters that are kept of the deciding line."""

MOST_PATTERN = 200
MOST_PATTERNS = 16
_PATTERN_S = 1.0

_ALIVE = 3
"""Lines of progress after a traceback that show that the program went on; other ranks and threads may write one or
two more."""

_KILLS = {9: "SIGKILL", 15: "SIGTERM"}


class Ending:
    """How an attempt ended.

    Attributes:
        verdict: `done`, `out-of-memory` or `failed`.
        sure: whether no other cause is likely; an unsure out-of-memory justifies at most one larger slice.
        line: number of the deciding line, from 1; None if there is none.
        text: of that line, shortened and printable.
        why: the reason in a few words.
        unclear: whether memory ran out without a sign of which; a nearly full slice would settle it.
    """

    __slots__ = ("line", "sure", "text", "unclear", "verdict", "why")

    def __init__(
        self,
        verdict: str,
        why: str,
        *,
        sure: bool = True,
        unclear: bool = False,
        line: int | None = None,
        text: str | None = None,
    ) -> None:
        self.verdict, self.why, self.sure, self.unclear = verdict, why, sure, unclear
        self.line, self.text = line, text

    def beside(self, peak: float | None, limit: float | None) -> Ending:
        """Return the ending with measured memory taken into account: a nearly full slice settles an unclear one.

        Args:
            peak: most bytes seen in use; None if not measured.
            limit: bytes of its slice.
        """
        if peak is None or not limit or peak < NEAR * limit:
            return self
        if self.unclear:
            return self._again(OUT_OF_MEMORY, "out of memory, and its slice was nearly full")
        if self.verdict == OUT_OF_MEMORY and not self.sure:
            return self._again(OUT_OF_MEMORY, f"{self.why}, and its slice was nearly full")
        return self

    def _again(self, verdict: str, why: str) -> Ending:
        return Ending(verdict, why, line=self.line, text=self.text)


def _ending(
    verdict: str, why: str, event: Event | None, *, sure: bool = True, unclear: bool = False
) -> Ending:
    if event is None:
        return Ending(verdict, why, sure=sure, unclear=unclear)
    text = "".join(
        each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in event.text[:MOST_TEXT]
    )
    return Ending(verdict, why, sure=sure, unclear=unclear, line=event.line, text=text)


def classify(
    code: int | None,
    output: str | bytes,
    *,
    first: int = 1,
    host_memory: bool = False,
    patterns: Sequence[str] = (),
) -> Ending:
    """Return how a process ended, by its exit code and output.

    The last error decides: an out-of-memory after which the program went on was caught, and one followed by another
    error was not the cause of the end. An exception raised from an out-of-memory counts as one.

    Args:
        code: its exit code; 128 + n or -n after signal n; None if unknown.
        output: the end of its output.
        first: number of the first line of `output`.
        host_memory: whether host memory stands in for the slice's, as on a simulated instance and on a CPU.
        patterns: the user's regular expressions; a match means that memory ran out.
    """
    if code == 0:
        return Ending(DONE, "exit code 0")
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output
    found = events(text, first)
    fault = next((event for event in found if event.kind == FAULT), None)
    if fault is not None:
        return _ending(FAILED, "a fault of the GPU (Xid)", fault)
    killed = _KILLS.get(-code if code is not None and code < 0 else (code or 0) - 128)
    if killed is not None:
        host = ", as the host does when its own memory runs out" if killed == "SIGKILL" else ""
        return Ending(FAILED, f"killed ({killed}){host}")
    mine = _by_patterns(text, first, patterns)
    if mine is not None and not _went_on(found, mine):
        return _ending(OUT_OF_MEMORY, "a pattern of the user's", mine)
    return _by_words(found, text, first, host_memory=host_memory, aborted=code in (134, -6))


def _by_words(found: list[Event], text: str, first: int, *, host_memory: bool, aborted: bool) -> Ending:
    progress = 0
    vague: Event | None = None
    for at in range(len(found) - 1, -1, -1):
        event = found[at]
        if event.kind == PROGRESS:
            progress += 1
        elif progress >= (_ALIVE if event.raised else 1) and event.kind != ERROR:
            return _caught(event, found[at + 1 :], vague)
        elif event.kind == VAGUE and event.cause is None:
            vague = vague or event
        else:
            return _decided(event, found[: at + 1], text, first, host_memory=host_memory, aborted=aborted)
    return _ending(FAILED, "an error other than out-of-memory" if vague else "no error was recognised", vague)


def _caught(event: Event, after: list[Event], vague: Event | None) -> Ending:
    if event.kind != MEMORY:
        return _ending(FAILED, "an error other than out-of-memory", vague or event)
    went_on = next(each for each in after if each.kind == PROGRESS)
    return _ending(FAILED, f"out of memory in line {event.line} was caught: it went on", vague or went_on)


def _decided(
    event: Event, until: list[Event], text: str, first: int, *, host_memory: bool, aborted: bool
) -> Ending:
    """Return the ending by the last error that has a cause of its own."""
    if event.kind == MEMORY:
        return _of_memory(event, until, text, first, host_memory=host_memory, aborted=aborted)
    root, direct = event, True
    while root.cause is not None:
        root, direct = root.cause, direct and root.direct
        if root.kind == MEMORY:
            found = _of_memory(root, until, text, first, host_memory=host_memory, aborted=aborted)
            if found.verdict == OUT_OF_MEMORY and not (direct or event.kind == VAGUE):
                found.sure, found.why = False, "another error came while an out-of-memory was handled"
            return found
    return _ending(FAILED, "an error other than out-of-memory", event)


def _of_memory(
    event: Event, until: list[Event], text: str, first: int, *, host_memory: bool, aborted: bool
) -> Ending:
    says = {each.says for each in _burst(until) if each.kind == MEMORY} | {event.says}
    if OOM in says or (BARE in says and near(text, event.line, first)):
        return _ending(OUT_OF_MEMORY, "out of GPU memory", event)
    if UNSURE in says:
        return _ending(
            OUT_OF_MEMORY, "perhaps out of GPU memory: this has other causes, too", event, sure=False
        )
    # The process is limited to the slice's memory, and failed by itself when that ran out.
    if host_memory and (event.raised or aborted):
        return _ending(OUT_OF_MEMORY, "out of the memory that stands for the slice's", event)
    if BARE in says and _speaks_of_gpus(text):
        return _ending(
            OUT_OF_MEMORY, "out of memory, and it does not say that it is the GPU's", event, sure=False
        )
    whose = "it does not say whose" if BARE in says else "the host's"
    return _ending(FAILED, f"out of memory, {whose}", event, unclear=BARE in says or host_memory)


def _burst(until: list[Event]) -> Iterator[Event]:
    """Yield the events of the last error, backwards to the last sign of progress."""
    for event in reversed(until):
        if event.kind in (PROGRESS, ERROR):
            return
        yield event


def _speaks_of_gpus(text: str) -> bool:
    return any(named(line) for line in text[-16384:].splitlines())


def _went_on(found: list[Event], mine: Event) -> bool:
    return any(event.kind == PROGRESS and event.line > mine.line for event in found)


def checked_pattern(pattern: str) -> str | None:
    """Return why a user's pattern is not valid; None if it is."""
    if not 0 < len(pattern) <= MOST_PATTERN:
        return f"a pattern has 1 to {MOST_PATTERN} characters"
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"{pattern!r} is not a regular expression: {error}"
    return "it matches every line" if found.search("") else None


def _by_patterns(text: str, first: int, patterns: Sequence[str]) -> Event | None:
    """Return the last line that a user's pattern matches; None if there is none, or the search takes too long."""
    if not patterns:
        return None
    try:
        with _within(_PATTERN_S):
            tried = [re.compile(each) for each in patterns[:MOST_PATTERNS]]
            lines = list(enumerate(text.split("\n"), first))
            for number, line in reversed(lines):
                if any(each.search(line[:MOST_LINE]) for each in tried):
                    return Event(number, line[:MOST_LINE].strip(), MEMORY, OOM)
    except (TimeoutError, re.error):
        return None
    return None


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise TimeoutError if a block computes for longer, even within a single search.

    Python handles signals during a search. Only the main thread can be interrupted; in others it raises at once.
    """

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError

    try:
        before = signal.signal(signal.SIGVTALRM, late)
    except ValueError:  # another thread
        raise TimeoutError from None
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
