"""`partita classify`: what an ended attempt would be taken for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.options import Format, Output, echo, emit

if TYPE_CHECKING:
    from partita.oom import Ending

LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="What it wrote; - is stdin.")]
Code = Annotated[
    int,
    typer.Option("--exit", metavar="CODE", help="Its exit code; 128 + n, or -n, if signal n ended it."),
]
Pattern = Annotated[
    list[str] | None,
    typer.Option("--oom-pattern", metavar="REGEX", help="As for submit; may be given again."),
]
Simulated = Annotated[
    bool, typer.Option("--simulated", help="It ran on a simulated instance, whose memory is the host's.")
]


def classify(
    log: LogFile,
    *,
    code: Code,
    oom_pattern: Pattern = None,
    simulated: Simulated = False,
    output: Output = Format.TABLE,
) -> None:
    """Say what an ended attempt would be taken for, and which line decided: partita classify log --exit 1.

    `out-of-memory` (of the GPU) is tried again on the next larger slice, where it is not sure on one at most;
    `failed` and `done` are not. The queue asks the same of the last 256 KiB of a job's output, on every driver.
    """
    from partita import oom  # noqa: PLC0415
    from partita.jobs.queue.answers import read_patterns  # noqa: PLC0415 -- slow to import

    patterns = read_patterns(oom_pattern or [])
    first, end = _end(log, oom.END)
    found = oom.classify(code, end, first=first, host_memory=simulated, patterns=patterns)
    if output is not Format.TABLE:
        emit(_data(found), output)
        return
    echo(found.verdict if found.sure else f"{found.verdict}, not sure")
    echo(f"  why: {found.why}")
    if found.line is not None:
        echo(f"  line {found.line:,}: {found.text}")


def _data(found: Ending) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "sure": found.sure,
        "why": found.why,
        "line": found.line,
        "text": found.text,
    }


def _end(log: Path, most: int) -> tuple[int, bytes]:
    """Return the end of a log, and the number of its first line."""
    from partita.errors import InputError  # noqa: PLC0415 -- only to tell a fault

    try:
        with sys.stdin.buffer if str(log) == "-" else log.open("rb") as stream:
            first, end = 1, b""
            while part := stream.read(1 << 20):
                end += part
                first += end[:-most].count(b"\n")
                end = end[-most:]
            return first, end
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}", where=str(log)) from error
