"""`partita doctor`: what this host can do with GPUs, and what is in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from partita.cli.options import Format, Output, emit, stdout
from partita.drive.state import state_path
from partita.drive.survey import survey

if TYPE_CHECKING:
    from partita.drive.driver import ObservedInstance
    from partita.drive.survey import Finding, RealGpu, Report

_MARKS = {"ok": "green", "note": "yellow", "mend": "red"}


def doctor(output: Output = Format.TABLE) -> None:
    """Look at driver, MIG mode, cuts and rivals, and say what mends each fault; change nothing.

    Ends with 1 if something is in the way of using the GPUs there are, with 0 otherwise, GPU or not. A GPU that is
    left out is named with the reason and what helps.
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
