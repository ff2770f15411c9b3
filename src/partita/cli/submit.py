"""`partita submit`: put a job into the queue."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.options import read_bytes, read_limit, read_seconds
from partita.cli.output import echo
from partita.cli.queue import connect
from partita.errors import InputError
from partita.jobs.memory.forecasters import forecast_model

if TYPE_CHECKING:
    from collections.abc import Sequence

Command = Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="Command to run.")]
MemoryOption = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help="Most GPU memory that it needs, as in 12GiB.")
]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like", metavar="MODEL", help="Forecast its memory from an ONNX file or a Hugging Face folder."
    ),
]
LikeWith = Annotated[
    list[str] | None,
    typer.Option(
        "--like-with",
        metavar="NAME=VALUE",
        help="Sizes for --like, as `partita memory` has them: batch=8, tokens=2048, dtype=bfloat16, optimiser=adam, "
        "an ONNX model's own dimensions.",
    ),
]
GpuTime = Annotated[
    list[str] | None,
    typer.Option(
        "--gpu-time",
        metavar="TIME",
        help="Expected run time on the smallest slice that holds it, as 2h; or per slice, as 7g.80gb=30m.",
    ),
]
Array = Annotated[
    str | None,
    typer.Option(
        "--array", metavar="0-9", help="Run it once for each index; it replaces {index} in the command."
    ),
]
Priority = Annotated[
    int, typer.Option(min=-1000, max=1000, help="Larger starts first. Above 0: root and admins only.")
]
Grace = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-grace",
        metavar="TIME",
        help="It writes checkpoints, and has this long from SIGTERM to SIGKILL. (default: no checkpoints, 30s)",
    ),
]
Attempts = Annotated[
    int,
    typer.Option(
        "--max-attempts", min=1, max=20, help="Attempts that may run out of memory, be restarted or be lost."
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="TIME",
        help="End it when it has run this long: 90 (minutes), 2:30:00, 1-12, 90m, 2h, unlimited.",
    ),
]
After = Annotated[
    list[str] | None,
    typer.Option(
        "--after",
        metavar="ok|any|fail:ID",
        help="Start when job ID is done (ok), has ended (any), has failed (fail). Repeatable.",
    ),
]

_SHELL_WORDS = frozenset({"cd", "source", ".", "export", "ulimit", "umask", "alias", "set", "eval"})


OomPattern = Annotated[
    list[str] | None,
    typer.Option(
        "--oom-pattern",
        metavar="REGEX",
        help="A line of its output that matches says that GPU memory ran out. Repeatable.",
    ),
]


app = typer.Typer()


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    command: Command,
    *,
    memory: MemoryOption = None,
    like: Like = None,
    like_with: LikeWith = None,
    gpu_time: GpuTime = None,
    priority: Priority = 0,
    name: Annotated[
        str, typer.Option(help="A name; jobs of one name are expected to need the same memory.")
    ] = "",
    array: Array = None,
    checkpoint_grace: Grace = None,
    time: TimeLimit = None,
    after: After = None,
    max_attempts: Attempts = 4,
    oom_pattern: OomPattern = None,
    user: Annotated[str | None, typer.Option(help="Submit as this user; for root.")] = None,
) -> None:
    """Submit a job: partita submit --memory 12GiB -- python train.py. Prints its id.

    It runs in this directory with this environment, on the smallest slice that holds it. Without --memory or --like,
    the need of its earlier runs counts; without any, it begins on the smallest slice. If it runs out of memory, it is
    tried again on the next larger slice.
    """
    _require_program(command)
    with connect() as daemon:
        taken = daemon.ask(
            "submit",
            command=command,
            directory=_directory(),
            environment=dict(os.environ),
            memory=_memory(memory, like, like_with or ()),
            seconds=_times(gpu_time or ()),
            priority=priority,
            name=name,
            array=array,
            most_attempts=max_attempts,
            oom_patterns=oom_pattern or [],
            user=user,
            umask=_umask(),
            limit_s=_limit(time),
            after=after or [],
            **_grace(checkpoint_grace),
        )
    for note in taken["notes"]:
        echo(f"note: {note}", err=True)
    echo(taken["id"])


def _require_program(command: Sequence[str]) -> None:
    """Refuse what only a shell could run: a whole line as one word, an assignment, a builtin.

    Raises:
        InputError: it is such.
    """
    first, rest = command[0], shlex.join(command[1:])
    if Path(first).exists() or shutil.which(first):
        return
    if len(command) == 1 and len(first.split()) > 1:
        raise InputError(
            f"{first!r} is one word, and there is no program of that name",
            hint=f"drop the quotes: partita submit -- {first}; or have a shell read it: "
            f"partita submit -- sh -c {shlex.quote(first)}",
        )
    name, assigned, _ = first.partition("=")
    if assigned and name.isidentifier():
        raise InputError(
            f"{first} is an assignment, which only a shell reads",
            hint=f"partita submit -- env {shlex.quote(first)} {rest}".rstrip(),
        )
    if first in _SHELL_WORDS:
        raise InputError(
            f"{first} is a shell's own command, and no program",
            hint=f"have a shell read it: partita submit -- sh -c {shlex.quote(f'{first} {rest}'.strip())}",
        )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _limit(text: str | None) -> float | None:
    if text is None:
        return None

    return read_limit(text, "--time")


def _directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        raise InputError("this directory no longer exists", hint="cd to one that exists") from None


def _grace(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}

    return {"grace_s": read_seconds(text, "--checkpoint-grace"), "checkpoints": True}


def _memory(declared: str | None, like: Path | None, sizes: Sequence[str]) -> dict[str, Any] | None:
    if declared is not None and like is not None:
        raise InputError("--memory and --like both say what it needs", hint="give one of them")
    if sizes and like is None:
        raise InputError("--like-with needs --like", hint="give --like MODEL")
    if declared is not None:
        return {"source": "declared", "lower": 0.0, "upper": float(read_bytes(declared, "--memory"))}
    if like is None:
        return None

    forecast = forecast_model(like, sizes, "--like-with")
    for note in forecast.notes:
        echo(f"note: {note}", err=True)
    return {"source": "model", "lower": forecast.bounds().lower, "upper": forecast.bounds().upper}


def _times(words: Sequence[str]) -> dict[str, float]:
    """Read `2h`, or `1g.10gb=6h` and `7g.80gb=1h`, several in a word parted by commas."""
    found: dict[str, float] = {}
    for word in (part for each in words for part in each.split(",")):
        profile, given, time = word.rpartition("=")
        if profile.strip() in found or (given and not profile.strip()):
            raise InputError(
                f"{word!r} is not a time, or its profile is given twice",
                where="--gpu-time",
                hint="write 1g.10gb=6h,7g.80gb=1h",
            )
        found[profile.strip()] = read_seconds(time, "--gpu-time")
    if "" in found and len(found) > 1:
        raise InputError(
            "a time for every slice together with times for some", where="--gpu-time", hint="give one kind"
        )
    return found
