"""How far estimates are off: `python -m benchmarks.estimate_error` writes the tables of docs/estimate.md.

Fits the constants of `partita.perf.estimate` again, on all public rows and leaving one model out at a time,
so that each model is also estimated by constants that never saw it. Needs the public tables in
../shared/data.
"""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.model_works import MODELS
from partita.mig.catalogue import gpu_model
from partita.perf.estimate import FITTED, Constants, ModelWork, batch_ms, memory_mb, read_works
from partita.perf.reading import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.mig.gpu import GpuModel, Profile
    from partita.perf.table import Measurement

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "perf"
PAGE = ROOT / "docs" / "estimate.md"
BEGIN, END = "<!-- generated: estimate_error -->\n", "<!-- end -->"
# File, suffix of its model names, fewest and most processes.
TABLES = {
    "ParvaGPU, one process": ("parvagpu_a100_80gb.csv", "", 1, 1),
    "ParvaGPU, 2 to 5 processes": ("parvagpu_a100_80gb.csv", "", 2, 5),
    "MIG-Serving, PyTorch": ("mig_serving_a100.csv", "-pytorch", 1, 1),
    "MIG-Serving, TensorFlow": ("mig_serving_a100.csv", "-tensorflow", 1, 1),
}
NAMES = {"bert": "bert-large", "bert-base-uncased": "bert-base", "albert-large-v2": "albert-large"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A measured row with what estimates it."""

    table: str
    work: ModelWork
    gpu: GpuModel
    profile: Profile
    row: Measurement

    def ratios(self, constants: Constants) -> tuple[float, float]:
        """Throughput and latency, each estimate over measurement."""
        row = self.row
        ms = batch_ms(
            self.work, self.gpu, self.profile, row.batch, processes=row.processes, constants=constants
        )
        return 1000 * row.batch * row.processes / ms / row.throughput, ms / row.latency_ms


def cells() -> list[Cell]:
    works = {work.model: work for work in read_works(MODELS)}
    found = []
    for table, (file, suffix, fewest, most) in TABLES.items():
        for row in read_table(DATA / file):
            if row.model.endswith(suffix) and fewest <= row.processes <= most:
                name = row.model.removesuffix(suffix)
                gpu = gpu_model(row.gpu)
                found.append(Cell(table, works[NAMES.get(name, name)], gpu, gpu.profile(row.profile), row))
    return found


def fit(some: Sequence[Cell]) -> Constants:
    """Pattern search on the logarithms of the constants for the least mean |log ratio| of throughput."""
    best = [log(value) for value in astuple(FITTED)]
    steps = [0.2] * len(best)
    least = _loss(some, best)
    while max(steps) > 2e-3:
        for index, step in enumerate(steps):
            for sign in (1, -1):
                tried = [value + sign * step * (index == k) for k, value in enumerate(best)]
                loss = _loss(some, tried)
                if loss < least:
                    least, best = loss, tried
                    break
            else:
                steps[index] /= 2
    return Constants(*map(exp, best))


def _loss(some: Sequence[Cell], logs: Sequence[float]) -> float:
    constants = Constants(*map(exp, logs))
    return float(np.mean([abs(log(cell.ratios(constants)[0])) for cell in some]))


def percent(ratios: Iterable[float]) -> str:
    """Median and 90th percentile of |ratio - 1|."""
    errors = np.abs(np.array(list(ratios)) - 1)
    return f"{np.median(errors):.0%}, {np.quantile(errors, 0.9):.0%}"


def report(every: list[Cell]) -> str:
    models = sorted({cell.work.model for cell in every})
    unseen = {model: fit([cell for cell in every if cell.work.model != model]) for model in models}
    pairs = zip(Constants.__slots__, astuple(fit(every)), strict=True)
    ran = sum(_fits(cell) for cell in every)
    return "\n".join(
        [
            f"Constants fitted on all rows: {', '.join(f'{name} {value:.3g}' for name, value in pairs)}.",
            "",
            "Errors are |estimate / measurement - 1|: median, 90th percentile. *Unseen*: the model was left",
            "out of the fit.",
            "",
            *_by_table(every, unseen),
            "",
            *_by_model(every, unseen),
            "",
            f"Of {len(every)} rows that ran, the estimate of memory lets {ran} run.",
            "",
        ]
    )


def _by_table(every: list[Cell], unseen: dict[str, Constants]) -> list[str]:
    lines = [
        "| table | rows | throughput | throughput, unseen | latency | latency, unseen |",
        "|---|---|---|---|---|---|",
    ]
    for table in TABLES:
        mine = [cell for cell in every if cell.table == table]
        here = [cell.ratios(FITTED) for cell in mine]
        left = [cell.ratios(unseen[cell.work.model]) for cell in mine]
        parts = [percent(pair[axis] for pair in ratios) for axis in (0, 1) for ratios in (here, left)]
        lines.append(f"| {table} | {len(mine)} | {' | '.join(parts)} |")
    return lines


def _by_model(every: list[Cell], unseen: dict[str, Constants]) -> list[str]:
    lines = [f"| throughput, unseen | {' | '.join(TABLES)} |", "|---|" + "---|" * len(TABLES)]
    for model, constants in unseen.items():
        parts = []
        for table in TABLES:
            mine = [cell for cell in every if cell.table == table and cell.work.model == model]
            ratios = [cell.ratios(constants)[0] for cell in mine]
            parts.append(f"{percent(ratios)} (x{np.median(ratios):.2f})" if ratios else "-")
        lines.append(f"| {model} | {' | '.join(parts)} |")
    return lines


def _fits(cell: Cell) -> bool:
    need = memory_mb(cell.work, cell.row.batch, cell.row.processes)
    return need <= (cell.profile.memory_mib or 0) * 1.048576


def main() -> int:
    if not DATA.is_dir():
        print(f"skipped: the public tables are not at {DATA}")
        return 0
    text = report(cells())
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(head + BEGIN + text + END + rest.split(END, 1)[1], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
