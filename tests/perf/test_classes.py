from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from partita.mig.catalogue import gpu_model
from partita.perf.classes import Growth, model_classes
from partita.perf.reading import read_table
from partita.perf.table import Measurement

if TYPE_CHECKING:
    from pathlib import Path

A100, A30 = gpu_model("a100-40gb"), gpu_model("a30-24gb")


def row(
    profile: str, throughput: float, *, gpu: str = "a100-40gb", batch: int = 8, processes: int = 1
) -> Measurement:
    return Measurement("m", gpu, profile, batch, processes, throughput, 10.0, "0.9")


@pytest.mark.parametrize(
    ("whole", "growth"),
    [(649, Growth.SUB_LINEAR), (650, Growth.LINEAR), (750, Growth.LINEAR), (751, Growth.SUPER_LINEAR)],
)
def test_linear_is_six_and_a_half_to_seven_and_a_half(whole: float, growth: Growth) -> None:
    found = model_classes([row("1g.5gb", 100), row("7g.40gb", whole)], A100)
    assert found[8].growth is growth


def test_the_smallest_profile_that_runs_counts_by_its_slices() -> None:
    found = model_classes([row("2g.10gb", 200), row("3g.20gb", 900), row("7g.40gb", 700)], A100)
    assert (found[8].smallest, found[8].ratio) == ("2g.10gb", 7.0)


def test_an_a30_has_bounds_of_four_slices() -> None:
    whole = {3.7: Growth.SUB_LINEAR, 3.72: Growth.LINEAR, 4.28: Growth.LINEAR, 4.3: Growth.SUPER_LINEAR}
    for times, growth in whole.items():
        rows = [row("1g.6gb", 100, gpu="a30-24gb"), row("4g.24gb", 100 * times, gpu="a30-24gb")]
        assert model_classes(rows, A30)[8].growth is growth


def test_several_processes_do_not_count_and_a_batch_without_a_whole_gpu_has_no_class() -> None:
    rows = [
        row("1g.5gb", 100),
        row("7g.40gb", 700),
        row("1g.5gb", 300, processes=2),
        row("1g.5gb", 9, batch=16),
    ]
    assert {batch: each.ratio for batch, each in model_classes(rows, A100).items()} == {8: 7.0}
    assert model_classes([row("7g.40gb", 700)], A100) == {}


def test_the_papers_table_grows_as_its_figure_4_says(shared_data: Path) -> None:
    """Of 49 models all are sub-linear at batch 1, and 35, 22, 15 at 8, 16, 32. The table has 16 series."""
    table = read_table(shared_data / "perf" / "mig_serving_a100.csv")
    classes = [model_classes(table.of(model, "a100-40gb"), A100) for model in table.models]
    share = {
        batch: sum(each[batch].growth is Growth.SUB_LINEAR for each in classes) / len(classes)
        for batch in (1, 8, 16, 32)
    }
    assert share[1] == 1
    assert share[8] > share[16] >= share[32]
    assert share[8] == pytest.approx(35 / 49, abs=0.15)
    assert share[32] == pytest.approx(15 / 49, abs=0.15)
