"""`partita gpus` and `partita doctor`: the GPUs that are known, and those of this host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from partita.cli.drawing import ASCII, UNICODE, mosaic
from partita.cli.options import gpus_folder
from partita.cli.output import Format, Output, echo, emit, note, stderr, stdout
from partita.drive.nvml.devices import models_here
from partita.drive.state import state_path
from partita.drive.survey import survey
from partita.errors import InputError
from partita.files import replacing
from partita.mig.catalogue import gpu_meant, gpu_model, gpu_names, gpu_text
from partita.mig.layout import legal_layouts, maximal_layouts, maximal_multisets

if TYPE_CHECKING:
    from rich.console import Console

    from partita.drive.driver import ObservedInstance
    from partita.drive.survey import Finding, RealGpu, Report
    from partita.mig.gpu import GpuModel, Profile
    from partita.mig.layout import Layout


app = typer.Typer(no_args_is_help=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="GPU, as `partita gpus` names it.")]
Forbid = Annotated[
    list[str] | None,
    typer.Option(
        "--forbid",
        metavar="COMBINATION",
        help="Leave out cuts with this combination, as in 4g+3g. Repeatable.",
    ),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profiles",
        metavar="PROFILES",
        help="Cut into these only: names or sizes, as in 1g,3g. (default: all but +me and other variants)",
    ),
]


SaveTo = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="With --from-nvml: write them to this .toml file, or to this folder."
    ),
]


@app.callback(invoke_without_command=True)
def gpus(
    context: typer.Context,
    *,
    from_nvml: Annotated[
        bool, typer.Option("--from-nvml", help="List the GPUs of this host as NVML reports them.")
    ] = False,
    out: SaveTo = None,
    output: Output = Format.TABLE,
) -> None:
    """Known GPUs, and how each can be cut.

    Without a command, lists all known GPUs and their origin: the catalogue, a file of your own, or NVML.

    Save what NVML reports, to plan elsewhere or for a GPU that is not in the catalogue:
    `partita gpus --from-nvml --out my-gpu.toml`.
    """
    if context.invoked_subcommand:
        return

    if out is not None and not from_nvml:
        raise InputError("only GPUs that NVML reports are written", where="--out", hint="add --from-nvml")
    models = _of_this_host() if from_nvml else [gpu_model(name) for name in gpu_names()]
    if out is not None:
        _save(models, out)
    if output is not Format.TABLE:
        emit([_facts(gpu) for gpu in models], output)
        return

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("GPU")
    table.add_column("slices", justify="right", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("profiles")
    table.add_column("from")
    for gpu in models:
        names = " ".join(_plain_names(gpu))
        title = gpu.title.removeprefix("NVIDIA ")
        table.add_row(gpu.name, title, str(gpu.compute_slices), _mib(gpu.memory_mib), names, gpu.origin)
    stdout().print(table)


def _of_this_host() -> list[GpuModel]:
    """Return the models of this host's GPUs, each once, and tell of those that cannot be read."""
    models, left_out = models_here()
    note(*(each.note for each in left_out))
    return list(models)


def _save(models: list[GpuModel], out: Path) -> None:
    folder = out.is_dir() or out.suffix != ".toml"
    if not models:
        raise InputError("there is no GPU here to write", where=str(out), hint="see `partita doctor`")
    if len(models) > 1 and not folder:
        names = ", ".join(gpu.name for gpu in models)
        raise InputError(f"this host has {names}", where=str(out), hint=f"name a folder: --out {out.parent}")
    if folder:
        out.mkdir(parents=True, exist_ok=True)
    for gpu in models:
        path = out / f"{gpu.name}.toml" if folder else out
        with replacing(path) as stream:
            stream.write(gpu_text(gpu))
        stderr().print(
            f"note: wrote {path}; name it with --gpus-file, or keep it in {gpus_folder()}",
            markup=False,
            soft_wrap=True,
        )


@app.command()
def show(
    name: Name,
    *,
    forbid: Forbid = None,
    profiles: Profiles = None,
    toml: Annotated[bool, typer.Option("--toml", help="Write it as a file for --gpus-file.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show a GPU's profiles and all its maximal cuts, slice by slice."""
    gpu = gpu_meant(name)
    if toml:
        echo(gpu_text(gpu), newline=False)
        return
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
        "pci": list(gpu.pci),
        "aliases": list(gpu.aliases),
        "origin": gpu.origin,
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
        "copy_engines": profile.copy_engines,
    }


def _print_profiles(console: Console, gpu: GpuModel) -> None:
    origin = "" if gpu.origin == "catalogue" else f", from {gpu.origin}"
    console.print(Text.assemble((gpu.name, "bold"), f"  {gpu.title}, {gpu.architecture}{origin}"))
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


_MARKS = {"ok": "green", "note": "yellow", "mend": "red"}


def doctor(output: Output = Format.TABLE) -> None:
    """Check driver, MIG mode, layouts and other users of the GPUs; say how to repair each fault, and change nothing.

    Exits with 1 if something keeps the GPUs from being used, and with 0 otherwise, also without a GPU. Names each GPU
    that is left out, with the reason and a remedy.
    """
    report = survey(state_path())
    if output is Format.TABLE:
        _print(report)
    else:
        emit(_document(report), output)
    if report.mend:
        raise typer.Exit(1)


def _document(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.mend,
        "driver": report.driver,
        "gpus": [_gpu(gpu) for gpu in report.gpus],
        "managers": [{"name": m.name, "does": m.does, "evidence": m.evidence} for m in report.managers],
        "state": str(report.state),
        "simulated": _simulated(report),
        "findings": [
            {"level": f.level.value, "what": f.what, "where": f.where, "hint": f.hint}
            for f in report.findings
        ],
    }


def _gpu(gpu: RealGpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "model": gpu.model,
        "origin": gpu.origin,
        "left_out": gpu.left_out,
        "uuid": gpu.uuid,
        "mig": gpu.mig,
        "mig_after_reset": gpu.pending,
        "instances": None if gpu.instances is None else [_instance(each) for each in gpu.instances],
    }


def _instance(instance: ObservedInstance) -> dict[str, Any]:
    return {
        "profile": instance.placement.profile,
        "start": instance.placement.start,
        "gi_id": instance.identity.gi_id,
        "mig_uuid": instance.identity.mig_uuid,
        "ours": instance.ours,
        "busy": instance.busy,
    }


def _simulated(report: Report) -> list[dict[str, Any]] | None:
    if report.simulated is None:
        return None
    return [
        {
            "id": gpu.id,
            "model": gpu.model,
            "mig": gpu.mig,
            "lost": gpu.lost,
            "instances": [
                {**_instance(each), "service": each.replica.replica.service if each.replica else None}
                for each in gpu.instances
            ],
        }
        for gpu in report.simulated.gpus
    ]


def _print(report: Report) -> None:
    console = stdout()
    for finding in report.findings:
        line = Text(f"{finding.level.value:>4}  ", style=_MARKS[finding.level.value])
        line.append(_sentence(finding), style="default")
        console.print(line)
        if finding.hint:
            console.print(
                Text(f"      mend: {finding.hint}" if finding.level == "mend" else f"      {finding.hint}")
            )
    for gpu in report.gpus:
        if gpu.instances:
            cuts = "  ".join(_cut(each) for each in gpu.instances)
            console.print(Text(f"\nGPU {gpu.index} {gpu.model}: {cuts}"))
    console.print(Text(f"\nState is kept in {report.state}"))


def _sentence(finding: Finding) -> str:
    return f"{finding.where}: {finding.what}" if finding.where else finding.what


def _cut(instance: ObservedInstance) -> str:
    notes = [word for word, holds in (("not ours", not instance.ours), ("in use", instance.busy)) if holds]
    return str(instance.placement) + (f" ({', '.join(notes)})" if notes else "")
