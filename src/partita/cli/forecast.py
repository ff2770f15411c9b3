"""`partita memory`: how much a model is forecast to need, and from which parts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from partita import oom
from partita.cli.options import shown_bytes
from partita.cli.output import Format, Output, echo, emit, stdout
from partita.cli.safe_text import inline
from partita.errors import InputError
from partita.jobs.memory.bounds import slices, smallest
from partita.jobs.memory.forecasters import forecast_model
from partita.jobs.queue.answers import read_patterns
from partita.mig.catalogue import gpu_model

if TYPE_CHECKING:
    from partita.jobs.memory.bounds import ModelForecast
    from partita.mig.gpu import GpuModel
    from partita.oom import Ending


Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A Hugging Face folder, or an ONNX file, as for submit --like."),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="NAME=VALUE",
        help="Sizes, as for submit --like-with: batch=8, tokens=2048, encoder_tokens, prefill, dtype=bfloat16, "
        "kv_cache_dtype=fp8, optimiser=adam, an ONNX model's own dimensions.",
    ),
]
Gpu = Annotated[str, typer.Option("--gpu", metavar="NAME", help="The GPU whose slices are named.")]

_TITLES = {
    "weights": "weights",
    "kv_cache": "keys and values of the tokens",
    "cross_attention_cache": "keys and values of the encoder's tokens",
    "state": "state that does not grow",
    "gradients_and_optimiser": "gradients, optimiser",
    "activations": "activations",
    "overhead": "CUDA context, workspaces, fragments",
}


def memory(
    model: Model,
    *,
    sizes: With = None,
    gpu: Gpu = "a100-80gb",
    output: Output = Format.TABLE,
) -> None:
    """Say how much GPU memory a model is forecast to need: partita memory hf-folder --with batch=8,tokens=8192.

    It certainly needs more than the lower bound, and at most the upper one. `submit --like` uses the same numbers: a
    job begins on the smallest slice that holds the upper bound, or on the largest if that holds only the lower.
    """
    slices = gpu_model(gpu)
    found = forecast_model(model, sizes or ())
    if output is not Format.TABLE:
        emit(_forecast_data(model, found, slices), output)
        return
    _print(found, slices)


def _forecast_data(model: Path, found: ModelForecast, gpu: GpuModel) -> dict[str, Any]:
    bounds = found.bounds()
    return {
        "model": str(model),
        **found.facts,
        "lower": round(bounds.lower),
        "upper": round(bounds.upper),
        "parts": {
            name: {"lower": round(part.lower), "upper": round(part.upper)}
            for name, part in found.parts.items()
        },
        "gpu": gpu.name,
        "slice": _slice(gpu, bounds.lower, bounds.upper),
        "slice_of_lower": _smallest(gpu, bounds.lower + 1.0),
        "slice_of_upper": _smallest(gpu, bounds.upper),
        "notes": list(found.notes),
    }


def _slice(gpu: GpuModel, lower: float, upper: float) -> str | None:
    """Return the profile that a job begins on, as the queue has it; None if it is larger than any."""
    if (holding := _smallest(gpu, upper)) is not None:
        return holding
    return slices(gpu)[-1].name if _smallest(gpu, lower + 1.0) is not None else None


def _smallest(gpu: GpuModel, need: float) -> str | None:
    profile = smallest(gpu, need)
    return None if profile is None else profile.name


def _print(found: ModelForecast, gpu: GpuModel) -> None:

    bounds = found.bounds()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part")
    for heading in ("at least", "at most"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, part in found.parts.items():
        table.add_row(_TITLES.get(name, inline(name)), shown_bytes(part.lower), shown_bytes(part.upper))
    table.add_row("all", shown_bytes(bounds.lower), shown_bytes(bounds.upper), style="bold")
    stdout().print(table)
    begins = _slice(gpu, bounds.lower, bounds.upper)
    larger = f"larger than any slice of {gpu.name}"
    echo(f"on {gpu.name}: {larger if begins is None else f'a job begins on {begins}'}")
    for note in found.notes:
        echo(f"note: {note}", err=True)


LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="Output of the attempt; - is stdin.")]
Code = Annotated[
    int,
    typer.Option("--exit", metavar="CODE", help="Its exit code; 128 + n, or -n, if signal n ended it."),
]
Pattern = Annotated[
    list[str] | None,
    typer.Option("--oom-pattern", metavar="REGEX", help="As for submit. Repeatable."),
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
    """Say how an ended attempt is classified, and which line decided: partita classify log --exit 1.

    An attempt that is `out-of-memory` (of the GPU) is tried again on the next larger slice, at most once if unsure;
    `failed` and `done` are not. The queue classifies by the last 256 KiB of a job's output in the same way, on every
    driver.
    """
    patterns = read_patterns(oom_pattern or [])
    first, end = _end(log, oom.END)
    found = oom.classify(code, end, first=first, host_memory=simulated, patterns=patterns)
    if output is not Format.TABLE:
        emit(_ending_data(found), output)
        return
    echo(found.verdict if found.sure else f"{found.verdict}, not sure")
    echo(f"  why: {found.why}")
    if found.line is not None:
        echo(f"  line {found.line:,}: {found.text}")


def _ending_data(found: Ending) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "sure": found.sure,
        "why": found.why,
        "line": found.line,
        "text": found.text,
    }


def _end(log: Path, most: int) -> tuple[int, bytes]:
    """Return the end of a log, and the number of its first line."""
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
