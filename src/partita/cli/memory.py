"""`partita memory`: how much a model is forecast to need, and from which parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.options import Format, Output, echo, emit, stdout

if TYPE_CHECKING:
    from partita.jobs.memory.bounds import ModelForecast
    from partita.mig.gpu import GpuModel

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

    It needs surely more than the lower bound and at most the upper one. `submit --like` uses the same numbers: a job
    begins on the smallest slice that holds the upper bound, on the largest where none does but one holds the lower.
    """
    from partita.jobs.memory.model import forecast_model  # noqa: PLC0415 -- not for --help
    from partita.mig.catalogue import gpu_model  # noqa: PLC0415

    slices = gpu_model(gpu)
    found = forecast_model(model, sizes or ())
    if output is not Format.TABLE:
        emit(_data(model, found, slices), output)
        return
    _print(found, slices)


def _data(model: Path, found: ModelForecast, gpu: GpuModel) -> dict[str, Any]:
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
    from partita.jobs.memory.bounds import slices  # noqa: PLC0415 -- as above

    if (holding := _smallest(gpu, upper)) is not None:
        return holding
    return slices(gpu)[-1].name if _smallest(gpu, lower + 1.0) is not None else None


def _smallest(gpu: GpuModel, need: float) -> str | None:
    from partita.jobs.memory.bounds import smallest  # noqa: PLC0415 -- as above

    profile = smallest(gpu, need)
    return None if profile is None else profile.name


def _print(found: ModelForecast, gpu: GpuModel) -> None:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import

    from partita.cli.quantities import shown_bytes  # noqa: PLC0415

    bounds = found.bounds()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part")
    for heading in ("at least", "at most"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, part in found.parts.items():
        table.add_row(_TITLES[name], shown_bytes(part.lower), shown_bytes(part.upper))
    table.add_row("all", shown_bytes(bounds.lower), shown_bytes(bounds.upper), style="bold")
    stdout().print(table)
    begins = _slice(gpu, bounds.lower, bounds.upper)
    larger = f"larger than any slice of {gpu.name}"
    echo(f"on {gpu.name}: {larger if begins is None else f'a job begins on {begins}'}")
    for note in found.notes:
        echo(f"note: {note}", err=True)
