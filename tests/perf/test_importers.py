from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from partita.errors import InputError
from partita.perf.importers import (
    import_columns,
    import_migprofiler,
    import_model_analyzer,
    import_parvagpu,
    import_perf_analyzer,
)
from partita.perf.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

A100 = "NVIDIA A100-SXM4-80GB"
SLICE = "MIG 2g.20gb"
PARVAGPU = """Mig instance,Batch size,Workload Number,Throughput,Latency
1,1,1,196.762,0.005
1,1,2,125.968,0.008
1,64,1,0,0
3,8,3,420.133,0.019
7,128,2,1398.072,0.092
"""
PERF_ANALYZER = """\
Concurrency,Inferences/Second,Client Send,Server Queue,Client Recv,p50 latency,p90 latency,p99 latency
1,69.2,225,64,0,13891,18795,21018
3,84.2,237,21673,0,35398,43984,51701
2,87.2,235,9151,0,21874,28557,34766
"""
MODEL_ANALYZER = """\
Model,Batch,Concurrency,Model Config Path,Instance Group,Throughput (infer/sec),\
p99 Latency (ms),Avg Latency (ms)
add_sub,2,2,default,1/GPU,15082.8,0.4,0.3
add_sub,2,1,default,1/GPU,6226.8,0.5,0.4
add_sub,2,1,config_1,1:GPU,6020.4,0.6,0.5
add_sub,2,2,config_3,2:GPU,8041.2,0.7,0.6
add_sub,2,1,config_3,2:GPU,4875.1,0.7,0.6
other,1,1,default,1:GPU,100.0,9.0,8.0
"""


def write(tmp_path: Path, content: str, name: str = "resnet50.csv") -> Path:
    path = tmp_path / name
    path.write_text(content)
    return path


def test_parvagpus_throughput_is_that_of_all_processes_and_its_latency_is_finer_than_its_column(
    tmp_path: Path,
) -> None:
    rows = list(import_parvagpu(write(tmp_path, PARVAGPU), A100))
    assert [(r.profile, r.batch, r.processes, r.throughput, r.latency_ms) for r in rows] == [
        ("1g.10gb", 1, 1, 196.762, 5.0823),
        ("1g.10gb", 1, 2, 251.936, 7.9385),
        ("3g.40gb", 8, 3, 1260.399, 19.0416),
        ("7g.80gb", 128, 2, 2796.144, 91.5547),
    ]
    assert {(r.model, r.gpu, r.quantile) for r in rows} == {("resnet50", "a100-80gb", "mean")}


def test_parvagpus_folder_has_a_model_per_file(tmp_path: Path) -> None:
    write(tmp_path, PARVAGPU)
    write(tmp_path, PARVAGPU, "bert.csv")
    assert import_parvagpu(tmp_path, A100).models == ("bert", "resnet50")
    with pytest.raises(InputError, match="2 files are not one model"):
        import_parvagpu(tmp_path, A100, model="bert")


def test_imported_rows_equal_those_of_the_public_table(tmp_path: Path, shared_data: Path) -> None:
    public = read_table(shared_data / "perf" / "parvagpu_a100_80gb.csv").of("resnet50", "a100-80gb")
    known = {(r.profile, r.batch, r.processes): r for r in public}
    for row in import_parvagpu(write(tmp_path, PARVAGPU), A100):
        same = known[row.profile, row.batch, row.processes]
        assert row.throughput == pytest.approx(same.throughput, rel=1e-4)
        assert row.latency_ms == pytest.approx(same.latency_ms, rel=1e-4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "resnet50.csv:1: no column 'Mig instance'"),
        (PARVAGPU + "5,1,1,3,0\n", "resnet50.csv:7: a100-80gb has no profile of 5 compute slices"),
        (PARVAGPU + "1,1,1,fast,0\n", "resnet50.csv:7: Throughput is 'fast'"),
        (PARVAGPU + "1,0,1,3,0\n", "resnet50.csv:7: Batch size is 0"),
        ("", "the file is empty"),
    ],
)
def test_a_faulty_raw_table_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        import_parvagpu(write(tmp_path, content), A100)
    assert said in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no CSV file"):
        import_parvagpu(tmp_path, A100)


def test_perf_analyzer_gives_a_row_per_quantile_in_milliseconds(tmp_path: Path) -> None:
    table = import_perf_analyzer(write(tmp_path, PERF_ANALYZER), A100, SLICE, model="incept", batch=4)
    assert [(r.quantile, r.throughput, r.latency_ms) for r in table] == [
        ("0.5", 69.2, 13.891),
        ("0.9", 69.2, 18.795),
        ("0.99", 69.2, 21.018),
    ]
    assert {(r.model, r.gpu, r.profile, r.batch, r.processes) for r in table} == {
        ("incept", "a100-80gb", "2g.20gb", 4, 1)
    }


def test_perf_analyzer_is_kept_at_the_fewest_requests_that_occupy_every_process(tmp_path: Path) -> None:
    path = write(tmp_path, PERF_ANALYZER)
    two = import_perf_analyzer(path, A100, SLICE, model="m", processes=2)
    assert {r.throughput for r in two} == {87.2}
    three = import_perf_analyzer(path, A100, SLICE, model="m", concurrency=3)
    assert {r.throughput for r in three} == {84.2}
    with pytest.raises(InputError, match="no row at concurrency 7"):
        import_perf_analyzer(path, A100, SLICE, model="m", concurrency=7)


@pytest.mark.parametrize("name", ["batch", "processes", "concurrency"])
def test_a_count_below_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"--{name}: must be at least 1, not 0"):
        import_perf_analyzer(write(tmp_path, PERF_ANALYZER), A100, SLICE, model="m", **{name: 0})


def test_measurements_at_request_rates_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = write(tmp_path, PERF_ANALYZER.replace("Concurrency", "Request Rate"))
    with pytest.raises(InputError, match="measured at request rates"):
        import_perf_analyzer(path, A100, SLICE, model="m")


def test_model_analyzer_counts_instances_as_processes_and_keeps_the_best_configuration(
    tmp_path: Path,
) -> None:
    table = import_model_analyzer(write(tmp_path, MODEL_ANALYZER), A100, SLICE)
    assert [(r.model, r.batch, r.processes, r.throughput, r.quantile, r.latency_ms) for r in table] == [
        ("add_sub", 2, 1, 6226.8, "0.99", 0.5),
        ("add_sub", 2, 1, 6226.8, "mean", 0.4),
        ("add_sub", 2, 2, 8041.2, "0.99", 0.7),
        ("add_sub", 2, 2, 8041.2, "mean", 0.6),
        ("other", 1, 1, 100.0, "0.99", 9.0),
        ("other", 1, 1, 100.0, "mean", 8.0),
    ]


def test_model_analyzer_can_keep_one_model(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL_ANALYZER)
    assert import_model_analyzer(path, A100, SLICE, model="other").models == ("other",)
    with pytest.raises(InputError, match="no rows of model 'third'"):
        import_model_analyzer(path, A100, SLICE, model="third")


def test_a_latency_below_the_files_resolution_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL_ANALYZER.replace("15082.8,0.4", "15082.8,0.0"))
    with pytest.raises(InputError, match=r"resnet50.csv:2: p99 Latency \(ms\) is 0"):
        import_model_analyzer(path, A100, SLICE)


BATCHES = """\
Batch Size,Concurrency,Inferences/Second,p50 latency,p99 latency
1,1,70,13891,21018
8,1,300,23891,31018
8,2,310,43891,61018
16,1,0,0,0
"""


def test_perf_analyzers_own_batches_are_used_and_levels_without_an_answer_are_left_out(
    tmp_path: Path,
) -> None:
    table = import_perf_analyzer(write(tmp_path, BATCHES), A100, SLICE, model="m")
    assert [(r.batch, r.throughput, r.quantile, r.latency_ms) for r in table] == [
        (1, 70.0, "0.5", 13.891),
        (1, 70.0, "0.99", 21.018),
        (8, 300.0, "0.5", 23.891),
        (8, 300.0, "0.99", 31.018),
    ]
    with pytest.raises(InputError, match="the file has the batch in column 'Batch Size'"):
        import_perf_analyzer(tmp_path / "resnet50.csv", A100, SLICE, model="m", batch=8)


def test_perf_analyzers_rows_of_one_concurrency_are_not_taken_for_one_batch(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"resnet50.csv:5: concurrency 1 is there already, with batch 4"):
        import_perf_analyzer(
            write(tmp_path, PERF_ANALYZER + "1,80,0,0,0,1,1,1\n"), A100, SLICE, model="m", batch=4
        )


MIGPROFILER = """\
,model_name,seq_length,batch_size,latency,latency_std,throughput,mig_profile,gract_mean,fb_used_mean
0,bert,64,1,11.16,0.08,89.62,1g.10gb,0.134,2027.14
1,bert,64,8,10.69,0.04,748.09,3g.40gb,0.193,2055.779
2,bert,64,16,0,0,0,1g.10gb,,
"""


def test_migprofiler_gives_means_of_one_process(tmp_path: Path) -> None:
    table = import_migprofiler(write(tmp_path, MIGPROFILER), A100)
    assert [
        (
            r.model,
            r.profile,
            r.batch,
            r.processes,
            r.throughput,
            r.latency_ms,
            r.quantile,
            r.memory_mb,
            r.utilization,
        )
        for r in table
    ] == [
        ("bert", "1g.10gb", 1, 1, 89.62, 11.16, "mean", 2027.14, 0.134),
        ("bert", "3g.40gb", 8, 1, 748.09, 10.69, "mean", 2055.779, 0.193),
    ]


def test_migprofilers_slice_may_stand_in_the_files_name_or_be_told(tmp_path: Path) -> None:
    bare = "model_name,batch_size,latency,throughput\nbert,8,10.7,748\n"
    named = write(tmp_path, bare, "bert_MIG_profile_9.csv")
    assert {r.profile for r in import_migprofiler(named, A100)} == {"3g.40gb"}
    told = import_migprofiler(write(tmp_path, bare), A100, profile=SLICE, model="mine")
    assert {(r.profile, r.model) for r in told} == {("2g.20gb", "mine")}
    with pytest.raises(InputError, match="does not say which slice"):
        import_migprofiler(tmp_path / "resnet50.csv", A100)


def test_migprofilers_sequence_lengths_are_kept_apart(tmp_path: Path) -> None:
    path = write(tmp_path, MIGPROFILER + "3,bert,128,1,20,0,50,1g.10gb,0.2,2100\n")
    with pytest.raises(InputError, match="sequence lengths 64, 128") as caught:
        import_migprofiler(path, A100)
    assert caught.value.hint == "choose one, as in --seq-length 64"
    assert [r.latency_ms for r in import_migprofiler(path, A100, seq_length=128)] == [20]
    with pytest.raises(InputError, match="no row with sequence length 7"):
        import_migprofiler(path, A100, seq_length=7)
    with pytest.raises(InputError, match=r":5: bert on 1g.10gb with batch 1 is there already"):
        import_migprofiler(write(tmp_path, MIGPROFILER + "3,bert,64,1,20,0,50,1g.10gb,0.2,1\n"), A100)


def test_any_table_is_imported_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path, 'Net;Slice;BS;ips;p99 us\nres;MIG 1g.10gb;8;1.234,5;6400\nres;2g.20gb;8;x;"7.000"\n'
    )
    columns = {
        "model": "Net",
        "profile": "slice",
        "batch": "BS",
        "throughput": "ips",
        "latency_ms": "p99 us * 0.001",
    }
    values = {"gpu": "A100-SXM4-80GB", "processes": "1", "quantile": "p99"}
    with pytest.raises(InputError, match=r"resnet50.csv:3: throughput is 'x': not a number"):
        import_columns(path, columns, values)
    write(tmp_path, path.read_text().replace("x;", "900;"))
    assert [
        (r.model, r.gpu, r.profile, r.throughput, r.latency_ms, r.quantile)
        for r in import_columns(path, columns, values)
    ] == [
        ("res", "a100-80gb", "1g.10gb", 1234.5, 6.4, "0.99"),
        ("res", "a100-80gb", "2g.20gb", 900.0, 7.0, "0.99"),
    ]
    for wrong, what in (
        ({**columns, "latency": "p99 us"}, "no column 'latency'"),
        ({**columns, "batch": "B"}, "no column 'B'"),
        ({k: v for k, v in columns.items() if k != "batch"}, "no column or value for batch"),
    ):
        with pytest.raises(InputError, match=what):
            import_columns(path, wrong, values)


MAPPED = {"model": "Net", "profile": "Slice", "batch": "BS", "throughput": "rate", "latency_ms": "p99 / 1000"}
SET = {"gpu": "a100-80gb", "processes": "1", "quantile": "p99"}


def test_a_mapped_table_is_held_to_what_tables_are_held_to(tmp_path: Path) -> None:
    header, line = "Net,Slice,BS,rate,p99\n", "resnet,1g.10gb,8,347.5,23000\n"
    (row,) = import_columns(write(tmp_path, header + line), MAPPED, SET)
    assert row.latency_ms == pytest.approx(23.0)
    with pytest.raises(InputError, match=r"csv:3: resnet on a100-80gb 1g.10gb.*is already at .*csv:2"):
        import_columns(write(tmp_path, header + line + line), MAPPED, SET)
    seconds = import_columns(write(tmp_path, header + line), MAPPED | {"latency_ms": "p99 * 1e-6"}, SET)
    assert "hard to believe" in seconds.notes[0]


def test_of_two_columns_of_one_name_none_is_taken(tmp_path: Path) -> None:
    twice = write(tmp_path, "Net,Slice,BS,rate,p99,p99\nresnet,1g.10gb,8,347.5,23000,25000\n")
    with pytest.raises(InputError, match="'p99' appears twice"):
        import_columns(twice, MAPPED, SET)
    apart = write(tmp_path, "Net,Slice,BS,rate,P99,p99\nresnet,1g.10gb,8,347.5,25000,23000\n")
    assert [row.latency_ms for row in import_columns(apart, MAPPED, SET)] == [pytest.approx(23.0)]


@pytest.mark.parametrize("zero", ["p99 / 0", "p99 * 0"])
def test_a_factor_of_zero_is_refused(tmp_path: Path, zero: str) -> None:
    path = write(tmp_path, "Net,Slice,BS,rate,p99\nresnet,1g.10gb,8,347.5,23000\n")
    with pytest.raises(InputError, match="leaves nothing"):
        import_columns(path, MAPPED | {"latency_ms": zero}, SET)
