"""`partita gpus`: the GPUs of the catalogue, and what each can be cut into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.options import Format, Output, emit, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from partita.mig.gpu import GpuModel, Profile
    from partita.mig.layout import Layout

gpus = typer.Typer(help="GPUs in the catalogue, and what each can be cut into.", no_args_is_help=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="GPU, as `partita gpus` names it.")]
Forbid = Annotated[
    list[str] | None,
    typer.Option(
        "--forbid", metavar="COMBINATION", help="Leave out cuts with this, as in 4g+3g. Repeatable."
    ),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profiles",
        metavar="PROFILES",
        help="Cut into these alone: names or sizes, as in 1g,3g.  [default: all but +me and other variants]",
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(gpus, name="gpus")


@gpus.callback(invoke_without_command=True)
def catalogue(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List the GPUs of the catalogue."""
    if context.invoked_subcommand:
        return
    from partita.mig.catalogue import gpu_model, gpu_names  # noqa: PLC0415 -- not for --help

    models = [gpu_model(name) for name in gpu_names()]
    if output is not Format.TABLE:
        emit([_facts(gpu) for gpu in models], output)
        return
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("GPU")
    table.add_column("slices", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("profiles")
    for gpu in models:
        names = " ".join(_plain_names(gpu))
        table.add_row(
            gpu.name, gpu.title.removeprefix("NVIDIA "), str(gpu.compute_slices), _mib(gpu.memory_mib), names
        )
    stdout().print(table)


@gpus.command()
def show(
    name: Name, *, forbid: Forbid = None, profiles: Profiles = None, output: Output = Format.TABLE
) -> None:
    """Show a GPU's profiles and all ways to cut it to the full, slice by slice."""
    from partita.mig.catalogue import gpu_model  # noqa: PLC0415 -- not for --help

    gpu = gpu_model(name)
    cut = gpu.forbidding(forbid or ()).restricted(_chosen(gpu, profiles))
    if output is Format.TABLE:
        console = stdout()
        _print_profiles(console, gpu)
        _print_cuts(console, cut)
    else:
        emit(
            {**_facts(gpu), "profiles": [_profile_facts(p) for p in gpu.profiles], **_cut_facts(cut)}, output
        )


def _plain_names(gpu: GpuModel) -> list[str]:
    """Return the profiles that are no variant (`+me`, `+gfx`, `-me`) of another."""
    return [p.name for p in gpu.profiles if not any(mark in p.name for mark in "+-")]


def _chosen(gpu: GpuModel, words: list[str] | None) -> list[str]:
    if not words:
        return _plain_names(gpu)
    plain = _plain_names(gpu)
    chosen: list[str] = []
    for word in (part.strip() for text in words for part in text.split(",") if part.strip()):
        of_size = [name for name in plain if name.partition(".")[0] == word]
        chosen += of_size or [gpu.profile(word).name]
    return chosen


def _cut_facts(gpu: GpuModel) -> dict[str, Any]:
    from partita.mig.layout import legal_layouts, maximal_layouts, maximal_multisets  # noqa: PLC0415

    return {
        "cut_into": [profile.name for profile in gpu.profiles],
        "forbidden": [str(combination) for combination in gpu.forbidden],
        "legal_layouts": len(legal_layouts(gpu)),
        "maximal_layouts": [str(layout) for layout in maximal_layouts(gpu)],
        "multisets": len(maximal_multisets(gpu)),
    }


def _facts(gpu: GpuModel) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "title": gpu.title,
        "architecture": gpu.architecture,
        "compute_slices": gpu.compute_slices,
        "memory_slices": gpu.memory_slices,
        "memory_mib": gpu.memory_mib,
        "sms": gpu.sms,
        "power_limit_w": gpu.power_limit_w,
        "profiles": [profile.name for profile in gpu.profiles],
        "sources": list(gpu.sources),
    }


def _profile_facts(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "gi_profile_id": profile.gi_profile_id,
        "compute": profile.compute,
        "memory": profile.memory,
        "starts": list(profile.starts),
        "max_instances": profile.max_instances,
        "memory_mib": profile.memory_mib,
        "sms": profile.sms,
        "media": profile.media,
    }


def _print_profiles(console: Console, gpu: GpuModel) -> None:
    from rich.table import Table  # noqa: PLC0415 -- rich is slow to import

    console.print(f"[bold]{gpu.name}[/]  {gpu.title}, {gpu.architecture}")
    console.print(
        f"{gpu.compute_slices} compute slices, {gpu.memory_slices} memory slices, {_mib(gpu.memory_mib)}, "
        f"{_known(gpu.sms)} SMs\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("profile", no_wrap=True)
    for heading in ("id", "compute", "memory", "at most", "MiB", "SMs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("starts")
    for p in gpu.profiles:
        figures = (p.gi_profile_id, p.compute, p.memory, p.max_instances, p.memory_mib, p.sms)
        table.add_row(p.name, *map(_known, figures), " ".join(map(str, p.starts)))
    console.print(table)


def _print_cuts(console: Console, gpu: GpuModel) -> None:
    from partita.cli.mosaic import ASCII, UNICODE, mosaic  # noqa: PLC0415 -- not for --help
    from partita.mig.layout import legal_layouts, maximal_layouts, maximal_multisets  # noqa: PLC0415

    ways: dict[tuple[tuple[str, int], ...], list[Layout]] = {}
    for layout in maximal_layouts(gpu):
        ways.setdefault(tuple(layout.counts.items()), []).append(layout)
    console.print(
        f"\n{len(legal_layouts(gpu)):,} legal layouts, of which {len(maximal_layouts(gpu)):,} are maximal "
        f"(nothing can be added), in {len(maximal_multisets(gpu)):,} combinations. One layout of each:\n"
    )
    marks = ASCII if console.options.ascii_only else UNICODE
    for layouts in sorted(ways.values(), key=lambda found: (len(found[0]), str(found[0]))):
        more = f" {marks.times} {len(layouts)}" if len(layouts) > 1 else ""
        items = [(placement, "") for placement in layouts[0]]
        for line in mosaic(gpu, items, console.width - 5, marks):
            console.print(line + more, markup=False, no_wrap=True, crop=False)
    console.print(
        f"\n{marks.free} is a free slice. {marks.times} 2: two layouts have these instances, at other starts."
    )


def _mib(value: int | None) -> str:
    return "memory unknown" if value is None else f"{value / 1024:.0f} GiB"


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)
