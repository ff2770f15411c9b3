from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.errors import InputError
from partita.mig.catalogue import gpu_model, gpu_names
from partita.perf.estimate import (
    CONTEXT_MB,
    FITTED,
    ModelWork,
    estimate_table,
    memory_mb,
    plain_profiles,
    read_works,
)

RESNET50 = ModelWork("resnet50", gflop=8.2, mbytes=324, weights_mb=102, live_mb=9.6)
GPU = gpu_model("a100-80gb")
works = st.builds(
    ModelWork,
    model=st.just("m"),
    gflop=st.floats(0.01, 1e4),
    mbytes=st.floats(0.1, 1e4),
    weights_mb=st.floats(1, 2e4),
    precision=st.sampled_from(["fp32", "tf32", "fp16", "int8"]),
    kernels=st.integers(1, 2000),
)


def test_rows_are_marked_as_estimates_of_a_mean() -> None:
    table = estimate_table(RESNET50, GPU)
    assert len(table)
    assert all(row.estimated and row.quantile == "mean" and "estimate" in row.source for row in table)


def test_a_known_model_is_estimated_near_its_measurement() -> None:
    """ParvaGPU measured 412 items/s on 1g.10gb at batch 32, and 2551 on 7g.80gb at batch 128."""
    found = {(r.profile, r.batch): r.throughput for r in estimate_table(RESNET50, GPU)}
    assert found["1g.10gb", 32] == pytest.approx(412, rel=0.15)
    assert found["7g.80gb", 128] == pytest.approx(2551, rel=0.15)


def test_batch_1_is_bound_by_launching_kernels_and_processes_make_up_for_it() -> None:
    found = {
        (r.batch, r.processes): r
        for r in estimate_table(RESNET50, GPU, max_processes=3)
        if r.profile == "7g.80gb"
    }
    assert found[1, 1].latency_ms == pytest.approx(174 * 0.030)
    assert found[1, 3].throughput == pytest.approx(3 * found[1, 1].throughput, rel=1e-3)


@given(work=works, processes=st.integers(1, 4))
def test_a_row_keeps_throughput_latency_and_memory_consistent(work: ModelWork, processes: int) -> None:
    for row in estimate_table(work, GPU, batches=(1, 16), max_processes=processes):
        assert row.throughput * row.latency_ms == pytest.approx(
            1000 * row.batch * row.processes, rel=0.05, abs=2
        )
        assert row.memory_mb is not None
        assert row.memory_mb <= (GPU.profile(row.profile).memory_mib or 0) * 1.048576 + 0.1


@given(work=works)
def test_a_larger_slice_is_never_slower(work: ModelWork) -> None:
    found = {(r.profile, r.batch): r.latency_ms for r in estimate_table(work, GPU, batches=(1, 8, 64))}
    for (profile, batch), latency in found.items():
        assert found["7g.80gb", batch] <= latency, profile


@given(work=works, factor=st.floats(1, 10))
def test_more_work_never_takes_less_time(work: ModelWork, factor: float) -> None:
    more = replace(work, gflop=work.gflop * factor, mbytes=work.mbytes * factor)
    before = {(r.profile, r.batch): r.latency_ms for r in estimate_table(work, GPU)}
    after = {(r.profile, r.batch): r.latency_ms for r in estimate_table(more, GPU)}
    assert all(after[key] >= before[key] for key in after.keys() & before.keys())


def test_what_does_not_fit_has_no_row() -> None:
    huge = ModelWork("huge", gflop=1000, mbytes=1000, weights_mb=30_000)
    assert {row.profile for row in estimate_table(huge, GPU)} == {"3g.40gb", "4g.40gb", "7g.80gb"}
    assert not len(estimate_table(ModelWork("vast", gflop=1, mbytes=1, weights_mb=100_000), GPU))


def test_memory_grows_with_processes_and_batch() -> None:
    assert memory_mb(RESNET50, 1, 2) == 2 * memory_mb(RESNET50, 1, 1)
    assert memory_mb(RESNET50, 2, 1) - memory_mb(RESNET50, 1, 1) == pytest.approx(9.6)
    assert memory_mb(replace(RESNET50, live_mb=None), 1, 1) == pytest.approx(900 + 102 + 324 / 20)


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_of_the_catalogue_is_estimated_where_its_rates_and_memory_are_known(name: str) -> None:
    gpu = gpu_model(name)
    work = replace(RESNET50, precision="fp32")
    if gpu.peak.fp32_tflops is None or all(each.memory_mib is None for each in gpu.profiles):
        with pytest.raises(InputError, match="is not known"):
            estimate_table(work, gpu)
        return
    known = {profile.name for profile in plain_profiles(gpu) if profile.memory_mib is not None}
    assert {row.profile for row in estimate_table(work, gpu)} == known


def test_variants_with_media_engines_get_no_rows_of_their_own() -> None:
    assert [profile.name for profile in plain_profiles(GPU)] == [
        "1g.10gb",
        "1g.20gb",
        "2g.20gb",
        "3g.40gb",
        "4g.40gb",
        "7g.80gb",
    ]


def test_a_rate_that_the_catalogue_does_not_know_is_refused() -> None:
    gpu = replace(GPU, peak=replace(GPU.peak, tf32_tflops=None))
    with pytest.raises(InputError, match="the peak tf32 rate of a100-80gb is not known"):
        estimate_table(RESNET50, gpu)


def test_slices_stand_in_where_multiprocessors_are_not_known() -> None:
    known = estimate_table(RESNET50, GPU)
    unknown = estimate_table(RESNET50, replace(GPU, sms=None))
    ratios = [b.throughput / a.throughput for a, b in zip(known, unknown, strict=True)]
    assert median(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gflop": 0.0}, "gflop is 0.0"),
        ({"mbytes": float("nan")}, "mbytes is nan"),
        ({"weights_mb": -1.0}, "weights_mb is -1.0"),
        ({"precision": "fp61"}, "unknown precision 'fp61'"),
    ],
)
def test_a_work_that_cannot_be_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ModelWork(**({"model": "m", "gflop": 1.0, "mbytes": 1.0, "weights_mb": 1.0} | change))  # type: ignore[arg-type]


def test_the_page_states_the_constants_that_are_used() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "estimate.md").read_text(encoding="utf-8")
    told = (
        f"x {FITTED.launch_ms:.3f} ms",
        f"x {FITTED.compute:.3f})",
        f"x {FITTED.memory:.3f})",
        f"x {FITTED.kernel_ms:.4f} ms",
    )
    assert all(each in page for each in (*told, f"{CONTEXT_MB:.0f} MB"))


HEADER = "model,gflop,mbytes,weights_mb,precision,kernels,live_mb,source"


def works_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "models.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_work_is_read_with_all_its_columns(tmp_path: Path) -> None:
    path = works_file(tmp_path, HEADER, "gpt,32,329,496,fp16,242,26.1,a paper")
    assert read_works(path) == (ModelWork("gpt", 32, 329, 496, "fp16", 242, 26.1),)


def test_only_the_work_itself_is_needed(tmp_path: Path) -> None:
    path = works_file(tmp_path, "model,gflop,mbytes,weights_mb", "gpt,32,329,496")
    assert read_works(path) == (ModelWork("gpt", 32, 329, 496),)
    assert read_works(works_file(tmp_path, HEADER, "gpt,32,329,496,,,,")) == (ModelWork("gpt", 32, 329, 496),)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["model,gflop,mbytes", "a,1,1"], "models.csv:1: no column 'weights_mb'"),
        ([HEADER.replace("kernels", "kernel"), "a,1,1,1,,,,"], "models.csv:1: unknown column 'kernel'"),
        ([HEADER, "a,x,1,1,,,,"], "models.csv:2: gflop is 'x', not a number"),
        ([HEADER, "a,-1,1,1,,,,"], "models.csv:2: gflop is -1"),
        ([HEADER, "a,0,1,1,,,,"], "models.csv:2: gflop is 0"),
        ([HEADER, "a,1,1,inf,,,,"], "models.csv:2: weights_mb is inf"),
        ([HEADER, ",1,1,1,,,,"], "models.csv:2: model is empty"),
        ([HEADER, "a,1,1,1,,1.5,,"], "models.csv:2: kernels is 1.5"),
        ([HEADER, "a,1,1,1,bf61,,,"], "models.csv:2: unknown precision"),
        ([HEADER, "a,1,1,1,,,,", "a,1,1,1,,,,"], "models.csv:3: model 'a' appears twice"),
        ([HEADER], "models.csv:1: a header and no rows"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_works(works_file(tmp_path, *lines))
    assert said in str(caught.value)


def test_several_faults_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 faults") as caught:
        read_works(works_file(tmp_path, HEADER, "a,x,1,1,,,,", "b,1,y,1,,,,"))
    assert "models.csv:3: mbytes is 'y'" in caught.value.what
