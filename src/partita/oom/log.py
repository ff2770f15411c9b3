"""The end of a program's output as lines, and what each of them is: an error, what follows one, progress, or nothing.

A line is judged without what a launcher, a logger or a terminal has put around it. The frames of a traceback are
source text and say nothing; its last line is an exception, and one that was raised from another or while another was
handled is chained to it.
"""

from __future__ import annotations

import re

from partita.oom import words

TYPE_CHECKING = False  # typing is a tenth of the watcher's memory
if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_LINE = 1000
"""Characters of a line that are looked at."""

_MESSAGE = 5

MEMORY, ERROR, VAGUE, PROGRESS, FAULT = "memory", "error", "vague", "progress", "fault"
"""What a line is: memory ran out, another error, an error that names no cause of its own, a sign that the program
went on, or the report of a GPU's fault."""

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

# Types whose exceptions are about another process, a connection or the end itself.
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
    # A cause that has nothing to do with memory, whatever else the line says.
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
    # What libraries say while a program ends, whatever ended it.
    r"\s*(?:Loss logged|For debugging|Compile with|CUDA kernel errors"
    r"|If reserved|See documentation|Process \S+:$|Current (?:thread|device)|Please )"
    r"|.*destroy_process_group|.*resource_tracker"
    r"|.*leaked \w+ objects|\s*(?:frame #|@ +0x|#\d+ |\[bt\]|\d+ +0x)|.*Stack ?[tT]race|.*TORCH_"
    r"|.*CUDA_LAUNCH_BLOCKING"
    r"|.*Sending process|.*SIGTERM|\s*(?:slurmstepd|srun|mpirun|make)\b|.*Primary job +terminated|\s*-{5,}"
)
_OTHERS = re.compile(r"\s*(?:wandb|mlflow|comet|clearml|aim)\b|.*(?:wandb|W&B)|\++ |\$ ")
"""What trackers repeat of a run, and the commands that a shell shows."""
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
    """A line that says something.

    Attributes:
        line: its number, from 1.
        text: without what stands around it.
        kind: `MEMORY`, `ERROR`, `VAGUE`, `PROGRESS` or `FAULT`.
        says: of memory that ran out: `words.OOM`, `UNSURE`, `BARE` or `HOST`.
        raised: it is the last line of a traceback.
        cause: the exception that it was raised from, or while that was handled.
        direct: raised from it.
    """

    __slots__ = ("cause", "direct", "kind", "line", "raised", "says", "text")

    def __init__(
        self, line: int, text: str, kind: str, says: str | None = None, *, raised: bool = False
    ) -> None:
        self.line, self.text, self.kind, self.says, self.raised = line, text, kind, says, raised
        self.cause: Event | None = None
        self.direct = False


class _Speaker:
    """One of those whose lines are mixed: a rank, a worker, or all that has no label."""

    __slots__ = ("chained", "direct", "frames", "ignored", "last", "open")

    def __init__(self) -> None:
        self.frames = self.ignored = self.chained = self.direct = False
        self.last: Event | None = None
        self.open = 0  # lines that may still belong to the last exception's message


def near(text: str, line: int, first: int) -> bool:
    """Say whether the lines around a line tell of an error of a GPU."""
    lines = text.split("\n")[max(line - first - 4, 0) : line - first + 3]
    return any(words.named(each) and _ERRORISH.search(each) for each in lines)


def events(text: str, first: int = 1) -> list[Event]:
    """Return what the lines of an output say, in their order.

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
            # Bars are drawn once more when a program ends: only one that has advanced is progress.
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
    """Return whose line it is, what it says, and how grave its logger takes it (I, W, E or F; empty without one)."""
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
    if words.gpu_fault(told):
        return Event(number, told, FAULT)
    if _in_traceback(told, speaker):
        return None
    if speaker.open and speaker.last is not None:
        speaker.open -= 1
        if told.startswith((" ", "\t")) and words.memory(told) is None:
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
    """Take in the lines around exceptions; say whether this is one of them."""
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
    says = words.memory(text)
    if says is not None:
        if says == words.BARE:
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
    """Take in another line of an exception's message: it may name no cause of its own."""
    if event.kind == ERROR and _VAGUE.search(told) and not _OF_ITS_OWN.search(told):
        event.kind = VAGUE


def _of_type(found: re.Match[str] | None) -> str:
    """Return whose memory ran out by an exception's type: frameworks have one for a device, Python for the host."""
    name = found["type"].rpartition(".")[2] if found else ""
    if name in ("RuntimeError", "OutOfMemoryError"):
        return words.OOM
    return words.HOST if name == "MemoryError" else words.BARE


def _plain(number: int, told: str, level: str) -> Event | None:
    """Return what a line outside exceptions says."""
    text = told.strip()
    if level == "I":
        return Event(number, text, PROGRESS) if _STEP.search(told) else None
    if _OTHERS.match(told):
        return None
    mild = level == "W" or _WARNING.match(text) is not None
    says = words.memory(text)
    if says is not None:
        return Event(
            number, text, MEMORY, words.UNSURE if says == words.OOM and mild and "NCCL" not in text else says
        )
    if _AFTER.match(told):
        return None
    if not mild and (level in ("E", "F") or _ERRORISH.search(text)):
        return Event(number, text, ERROR if _OF_ITS_OWN.search(text) else VAGUE)
    progress = not told.startswith("    ") and _STEP.search(told)
    return Event(number, text, PROGRESS) if progress else None
