from __future__ import annotations

import copy
import io
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from partita.documents.codec import schema as schema_of
from partita.errors import InputError
from partita.workload import WORKLOAD, Batches, LimitsSpec, ServiceSpec, Slo, Workload, read_workload

MINIMAL = """\
apiVersion: partita/v1
kind: Workload
performance: [perf.csv]
gpus:
  - {model: a100-80gb}
services:
  - {name: a, model: resnet50, rate: 10, slo: {latency_ms: 100}}
"""

FULL = """\
apiVersion: partita/v1
kind: Workload
performance: [perf.csv, more/perf.parquet]
gpus:
  - {name: big, model: a100-80gb, count: 16, per_node: 4, cost_per_hour: 2.5}
  - {model: a30-24gb}
services:
  - name: a
    model: resnet50
    rate: 1e3
    slo: {latency_ms: 100, quantile: 0.99}
    headroom: 0.2
    min_replicas: 2
    profiles: [3g, 7g.80gb]
    priority: -1
    spread: 2
  - {name: b, model: bert, rate: 90, slo: {latency_ms: 100}, cut: search, batches: {median: 8, sigma: 0.9, max: 32}}
  - {name: c, model: bert, rate: 90, slo: {latency_ms: 100}, cut: paris, batches: {histogram: {"1": 0.5, "8": 1}}}
models:
  - {name: bert, gflop: 22, mbytes: 100, weights_mb: 440, precision: fp16}
limits: {max_batch: 128, max_processes: 5, latency_factor: 0.45, forbid: ["4g+3g"], max_services_per_gpu: 2}
objective: gpus
"""

Write = Callable[..., Path]
Case = tuple[str, str, str, str, str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    (tmp_path / "more").mkdir()
    for table in ("perf.csv", "p.csv", "more/perf.parquet"):
        (tmp_path / table).touch()

    def written(text: str, name: str = "w.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_workload(path)
    return caught.value


def test_the_smallest_workload_has_the_documented_defaults(write: Write) -> None:
    workload = read_workload(write(MINIMAL))
    (service,), (pool,) = workload.services, workload.gpus
    assert (service.headroom, service.min_replicas, service.priority, service.spread) == (0.0, 1, 0, 1)
    assert service.profiles is None
    assert service.slo == Slo(latency_ms=100.0)
    assert (pool.label, pool.count, pool.per_node, pool.cost_per_hour) == ("a100-80gb", None, 8, None)
    assert workload.limits == LimitsSpec()
    assert workload.objective == "gpus"


def test_every_field_is_read(write: Write) -> None:
    workload = read_workload(write(FULL))
    assert workload.gpus[0].label == "big"
    assert workload.services[0].rate == 1000.0
    assert workload.services[0].profiles == ("3g", "7g.80gb")
    assert workload.limits.forbid == ("3g+4g",)
    assert workload.models[0].precision == "fp16"


def test_tables_are_found_beside_the_workload(write: Write, tmp_path: Path) -> None:
    workload = read_workload(write(FULL))
    assert workload.performance == (str(tmp_path / "perf.csv"), str(tmp_path / "more/perf.parquet"))


def test_stdin_is_read_and_its_tables_are_found_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(MINIMAL))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perf.csv").touch()
    assert read_workload("-").performance == ("perf.csv",)


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_json_and_yaml_give_the_same_workload(write: Write, text: str) -> None:
    as_json = json.dumps(yaml.safe_load(text.replace("1e3", "1000")))
    assert read_workload(write(as_json, "w.json")) == read_workload(write(text))


def test_yaml_in_braces_is_still_yaml(write: Write) -> None:
    text = "{apiVersion: partita/v1, kind: Workload, performance: [p.csv], gpus: [{model: a30-24gb}],\n"
    text += " services: [{name: a, model: m, rate: 1, slo: {latency_ms: 5}}]}"
    assert read_workload(write(text)).services[0].name == "a"


def test_words_that_yaml_1_1_takes_for_booleans_are_names(write: Write) -> None:
    assert read_workload(write(MINIMAL.replace("name: a", "name: on"))).services[0].name == "on"


def test_a_workload_is_frozen(write: Write) -> None:
    workload = read_workload(write(MINIMAL))
    with pytest.raises(AttributeError):
        workload.objective = "cost"  # type: ignore[misc]


def test_anchors_and_merges_stand_for_their_values(write: Write) -> None:
    text = MINIMAL.replace("slo: {latency_ms: 100}", "slo: &fast {latency_ms: 100}")
    text += "  - {name: b, model: m, rate: 1, slo: *fast}\n"
    text += "  - {name: c, model: m, rate: 1, slo: {<<: *fast, quantile: 0.9}}\n"
    services = read_workload(write(text)).services
    assert services[1].slo == services[0].slo
    assert services[2].slo == Slo(latency_ms=100.0, quantile=0.9)


# (what is replaced, by what, the line and path of the fault, what is said, what the hint has)
FIELDS = [
    ("rate: 10", "rate: 0", "7: services[0].rate", "must be above 0, not 0", "rate: 829"),
    ("rate: 10", "rate: -3.5", "7: services[0].rate", "must be above 0, not -3.5", ""),
    ("rate: 10", "rate: .nan", "7: services[0].rate", "must be a finite number, not nan", ""),
    ("rate: 10", "rate: .inf", "7: services[0].rate", "must be", ""),
    ("rate: 10", "rate: 1e999", "7: services[0].rate", "must be", ""),
    ("rate: 10", "rate: '10'", "7: services[0].rate", "must be a number, not '10'", "without quotes"),
    ("rate: 10", "rate: many", "7: services[0].rate", "must be a number, not 'many'", "rate: 829"),
    ("rate: 10", "rate: true", "7: services[0].rate", "must be a number, not true", ""),
    ("rate: 10", "rate: null", "7: services[0].rate", "must be a number, not nothing", ""),
    ("rate: 10", "rate: [10]", "7: services[0].rate", "must be a number, not a list", ""),
    ("rate: 10, ", "", "7: services[0]", "rate is missing", "rate: 829"),
    ("rate: 10", "rates: 10", "7: services[0].rates", "unknown key", "did you mean rate?"),
    (
        "rate: 10",
        "rate: 10, xyzzy: 1",
        "7: services[0].xyzzy",
        "unknown key",
        "the keys here are name, model",
    ),
    ("rate: 10", "rate: 10, headroom: -0.1", "7: services[0].headroom", "must be at least 0, not -0.1", ""),
    ("rate: 10", "rate: 10, min_replicas: 0", "7: services[0].min_replicas", "must be at least 1, not 0", ""),
    ("rate: 10", "rate: 10, min_replicas: 1.5", "7: services[0].min_replicas", "must be a whole number", ""),
    ("rate: 10", "rate: 10, min_replicas: true", "7: services[0].min_replicas", "must be a whole number", ""),
    ("rate: 10", "rate: 10, spread: 99999999999999999999", "7: services[0].spread", "must be", ""),
    (
        "rate: 10",
        "rate: 10, priority: high",
        "7: services[0].priority",
        "must be a whole number",
        "priority: 10",
    ),
    (
        "rate: 10",
        "rate: 10, profiles: 3g",
        "7: services[0].profiles",
        "must be a list, not '3g'",
        "[2g, 3g.40gb]",
    ),
    ("rate: 10", "rate: 10, profiles: []", "7: services[0].profiles", "must be a list, not empty", ""),
    ("rate: 10", "rate: 10, profiles: [3g.20gb]", "7: services[0].profiles[0]", "'3g.20gb'", "did you mean"),
    (
        "rate: 10",
        "rate: 10, cut: serch",
        "7: services[0].cut",
        "must be 'fluid', 'homogeneous'",
        "cut: search",
    ),
    ("rate: 10", "rate: 10, cut: search", "7: services[0].cut", "a cut needs batches", "median: 8"),
    ("rate: 10", "rate: 10, batches: {median: 8}", "7: services[0].batches", "without a cut", "cut: search"),
    ("rate: 10", "rate: 10, share: 1", "7: services[0].share", "must be true or false", "share: true"),
    (
        "rate: 10",
        "rate: 10, share: true, cut: fluid, batches: {median: 8}",
        "7: services[0].share",
        "GPUs of its own",
        "leave out share",
    ),
    (
        "rate: 10",
        "rate: 10, share: true, min_replicas: 2",
        "7: services[0].share",
        "on one instance",
        "spread",
    ),
    (
        "rate: 10",
        "rate: 10, share: true, arrivals: {gamma: {cv: 3}}",
        "7: services[0].share",
        "for Poisson arrivals alone",
        "arrivals: poisson",
    ),
    (
        "services:",
        "objective: watts\nlimits: {share_below: 0.5}\nservices:",
        "7: limits.share_below",
        "objective watts is not for services that share",
        "objective: gpus",
    ),
    (
        "services:",
        "limits: {share_below: 0.5, max_services_per_gpu: 2}\nservices:",
        "6: limits.share_below",
        "which max_services_per_gpu limits",
        "leave out one",
    ),
    ("services:", "limits: {share_below: 0}\nservices:", "6: limits.share_below", "must be above 0", ""),
    (
        "rate: 10",
        "rate: 10, cut: fluid, batches: {}",
        "7: services[0].batches",
        "a median or a histogram",
        "",
    ),
    ("rate: 10", "rate: 10, batches: 8", "7: services[0].batches", "a mapping, not 8", "median: 8"),
    ("rate: 10", "rate: 10, batches: {mean: 8}", "7: services[0].batches.mean", "unknown key", "median"),
    ("rate: 10", "rate: 10, batches: {sigma: 0}", "7: services[0].batches.sigma", "above 0", "sigma: 0.9"),
    ("rate: 10", "rate: 10, batches: {max: 2000}", "7: services[0].batches.max", "at most 1024", "max: 32"),
    (
        "rate: 10",
        "rate: 10, cut: paris, batches: {histogram: {1: 1}, max: 8}",
        "7: services[0].batches.max",
        "not beside a histogram",
        "keep one",
    ),
    *(
        (
            "rate: 10",
            f"rate: 10, batches: {{histogram: {shares}}}",
            "7: services[0].batches.histogram",
            what,
            "8: 0.5",
        )
        for shares, what in (
            ("{}", "must be a mapping, not empty"),
            ("[1]", "must be a mapping, not a list"),
            ("{x: 1}", "x: must be a whole number, not 'x'"),
            ("{0: 1}", "0: must be at least 1, not 0"),
            ("{1025: 1}", "1025: must be at most 1024, not 1025"),
            ("{8: -1}", "8: must be at least 0, not -1"),
            ("{8: true}", "8: must be a number, not true"),
            ("{8: 0}", "all shares are 0"),
        )
    ),
    (
        "services:",
        "objective: watts\nservices:\n  - {name: b, model: m, rate: 1, slo: {latency_ms: 5}, cut: fluid}",
        "8: services[0].cut",
        "watts is not for services with a cut",
        "objective: gpus",
    ),
    ("name: a", "name: ''", "7: services[0].name", "must be text, not empty, not ''", "name: resnet50"),
    ("name: a", "name: 12", "7: services[0].name", "must be text, not 12", "quotes"),
    ("name: a", "name: .", "7: services[0].name", "must be more than dots", ""),
    ("name: a", "name: ..", "7: services[0].name", "must be more than dots", ""),
    ("name: a", r'name: "a\nb"', "7: services[0].name", "must be text without control characters", ""),
    (
        "{latency_ms: 100}",
        "100",
        "7: services[0].slo",
        "must be a mapping, not 100",
        "slo: {latency_ms: 100}",
    ),
    ("latency_ms: 100", "latency: 100", "7: services[0]", "latency_ms is missing", "latency_ms: 100"),
    ("100}", "0}", "7: services[0].slo.latency_ms", "must be above 0", ""),
    (
        "100}",
        "100, quantile: 99}",
        "7: services[0].slo.quantile",
        "must be below 1, not 99",
        "quantile: 0.99",
    ),
    ("100}", "100, quantile: 0}", "7: services[0].slo.quantile", "must be above 0, not 0", ""),
    (
        "100}",
        "2, quantile: 0.9}",
        "7: services[0].slo.latency_ms",
        "2 ms is not more than limits.overhead_ms, the 2 ms that the network and the gateway take",
        "overhead_ms: 0.5",
    ),
    ("100}", "100, quantile: p99}", "7: services[0].slo.quantile", "must be a number", ""),
    ("a100-80gb", "a100-80g", "5: gpus[0].model", "no GPU 'a100-80g'", "did you mean a100-80gb?"),
    ("a100-80gb", "zebra", "5: gpus[0].model", "no GPU 'zebra'", "partita gpus"),
    ("a100-80gb}", "a100-80gb, per_node: 0}", "5: gpus[0].per_node", "must be at least 1, not 0", ""),
    ("a100-80gb}", "a100-80gb, count: -1}", "5: gpus[0].count", "must be at least 1, not -1", ""),
    ("a100-80gb}", "a100-80gb, count: 2.5}", "5: gpus[0].count", "must be a whole number, not 2.5", ""),
    ("a100-80gb}", "a100-80gb, cost_per_hour: 0}", "5: gpus[0].cost_per_hour", "must be above 0", ""),
    ("services:", "limits: {max_batch: 0}\nservices:", "6: limits.max_batch", "must be at least 1", ""),
    ("services:", "limits: {max_processes: 0}\nservices:", "6: limits.max_processes", "at least 1", ""),
    ("services:", "limits: {max_processes: 49}\nservices:", "6: limits.max_processes", "at most 48", ""),
    ("services:", "limits: {latency_factor: 1.5}\nservices:", "6: limits.latency_factor", "at most 1", ""),
    ("services:", "limits: {latency_factor: 0}\nservices:", "6: limits.latency_factor", "above 0", ""),
    ("services:", "limits: {overhead_ms: -1}\nservices:", "6: limits.overhead_ms", "at least 0", ""),
    ("services:", "limits: {forbid: [4g]}\nservices:", "6: limits.forbid[0]", "not a combination", "4g+3g"),
    ("services:", "limits: 5\nservices:", "6: limits", "must be a mapping, not 5", ""),
    ("services:", "objective: money\nservices:", "6: objective", "'cost', 'gpus' or 'watts'", ""),
    ("services:", "objective: cost\nservices:", "5: gpus[0]", "needs cost_per_hour", "cost_per_hour: 2.5"),
    (
        "services:",
        "performence: [x]\nservices:",
        "6: performence",
        "unknown key",
        "did you mean performance?",
    ),
    ("services:", "models: [{name: m}]\nservices:", "6: models[0]", "gflop is missing", "gflop: 8.2"),
    ("[perf.csv]", "perf.csv", "3: performance", "must be a list, not 'perf.csv'", "[perf.csv]"),
    ("performance: [perf.csv]\n", "", "1", "no performance table", "performance: [perf.csv]"),
    ("[perf.csv]", "[perf.csv, other.csv]", "3: performance[1]", "there is no file", "workload's folder"),
    ("[perf.csv]", "[more]", "3: performance[0]", "is a directory", "workload's folder"),
    ("partita/v1", "partita/v2", "1: apiVersion", "newer than this partita", "update partita"),
    ("partita/v1", "apps/v1", "1: apiVersion", "'apps/v1' is not a version of this document", "partita/v1"),
    ("apiVersion: partita/v1", "apiVersion: 1", "1: apiVersion", "must be text, not 1", ""),
    ("kind: Workload", "kind: Plan", "2: kind", "must be 'Workload', not 'Plan'", "kind: Workload"),
    ("kind: Workload\n", "", "1", "kind is missing", "kind: Workload"),
]


@pytest.mark.parametrize("case", FIELDS, ids=[f"{case[1]!r}" for case in FIELDS])
def test_a_bad_field_is_named_with_its_line_and_a_hint(write: Write, case: Case) -> None:
    old, new, where, what, hint = case
    assert old in MINIMAL
    path = write(MINIMAL.replace(old, new, 1))
    error = refused(path)
    line, _, field = where.partition(": ")
    whole = f"{error} ({error.hint})"
    assert f"{path}:{line}" in whole
    assert field in whole
    assert what in whole
    assert hint in whole


@pytest.mark.parametrize("case", FIELDS, ids=[f"{case[1]!r}" for case in FIELDS])
def test_a_bad_field_in_json_is_named_with_its_line_too(write: Write, case: Case) -> None:
    old, new, where, what, hint = case
    data = yaml.safe_load(MINIMAL.replace(old, new, 1).replace("1e999", "1e+400"))
    path = write(json.dumps(data, indent=1), "w.json")
    error = refused(path)
    field = where.partition(": ")[2]
    whole = f"{error} ({error.hint})"
    assert f"{path}:" in whole
    assert field in whole
    assert what in whole or "e+400" in whole
    assert hint in whole


def test_every_kind_of_fault_is_told_at_once_with_its_count(write: Write) -> None:
    bad = "".join(f"  - {{name: b{i}, model: m, rate: -1, slo: {{latency_ms: 5}}}}\n" for i in range(12))
    error = refused(write(MINIMAL + bad + "  - {name: c, model: m, rate: 1, slo: {latency_ms: x}}\n"))
    assert error.what.startswith("13 faults of 2 kinds")
    assert "w.yaml:8: services[1].rate: must be above 0, not -1" in error.what
    assert "11 more like it on lines 9, 10, 11, 12, 13, 14, 15, 16, ..." in error.what
    assert "w.yaml:20: services[13].slo.latency_ms: must be a number" in error.what


def test_two_services_of_one_name_are_told_with_both_lines(write: Write) -> None:
    error = refused(write(MINIMAL + "  - {name: a, model: m, rate: 1, slo: {latency_ms: 5}}\n"))
    assert str(error).endswith("w.yaml:8: services[1]: service 'a' is there already, on line 7")
    assert error.hint == "give each service a name of its own"


def test_two_pools_of_one_gpu_need_names(write: Write) -> None:
    text = MINIMAL.replace("services:", "  - {model: a100-80gb}\nservices:")
    assert "on line 5" in str(refused(write(text)))
    assert len(read_workload(write(text.replace("{model", "{name: other, model", 1))).gpus) == 2


def test_empty_lists_are_refused(write: Write) -> None:
    services = MINIMAL.splitlines()[-1]
    assert "services: must be a list, not empty" in str(
        refused(write(MINIMAL.replace(f"services:\n{services}", "services: []")))
    )
    assert "gpus: must be a list, not empty" in str(
        refused(write(MINIMAL.replace("gpus:\n  - {model: a100-80gb}", "gpus: []")))
    )


@pytest.mark.parametrize("again", ["kind: Workload", "objective: gpus\nobjective: cost"])
def test_a_repeated_key_is_told_with_both_lines(write: Write, again: str) -> None:
    error = refused(write(MINIMAL + again + "\n"))
    assert "is already on line" in str(error)
    assert error.where is not None
    assert error.where.endswith((":8", ":9"))


def test_a_repeated_key_in_json_is_told_with_both_lines(write: Write) -> None:
    error = refused(write('{"kind": "Workload",\n "kind": "Workload"}', "w.json"))
    assert str(error).endswith("w.json:2: key 'kind' is already on line 1")


DOCUMENTS = [
    ("", ":1", "empty"),
    ("# only a comment\n", ":1", "empty"),
    ("- a\n- b\n", ":1", "a list, not a mapping"),
    ("[1, 2]", ":1", "a list, not a mapping"),
    ("just words\n", ":1", "not a mapping"),
    ("a: [1, 2\nb: 3\n", ":2", "not YAML"),
    ("a: b: c\n", ":1", "not YAML"),
    ("a:\n\t- b\n", ":2", "not YAML"),
    ('{"a": 1,', ":1", "the file ends in the middle"),
    ('{"a": 1,, }', ":1", "not JSON"),
    ("{a: 1,, }", ":1", "not YAML"),
    ("a: 1\n---\nb: 2\n", ":2", "a second document"),
    ("a: !!python/object:os.system {}\n", ":1", "tag"),
    ("a: &a [*a]\n", ":1", "no anchor &a"),
    ("a: *nowhere\n", ":1", "no anchor &nowhere"),
    ("? [a, b]\n: c\n", ":1", "a key must be a word"),
    ("<<: 3\n", ":1", "merged"),
    ("a: \x00\n", ":1", "not text that YAML allows"),
    ("a: 1\nb: \x07\n", ":2", "not text that YAML allows"),
    ("[" * 100_000, ":1", "nested more than"),
    ('{"a":' * 100_000, ":1", "nested more than"),
]


@pytest.mark.parametrize(("text", "line", "what"), DOCUMENTS, ids=[what for _, _, what in DOCUMENTS])
def test_text_that_is_no_workload_is_refused_with_its_line(
    write: Write, text: str, line: str, what: str
) -> None:
    error = refused(write(text))
    assert what in error.what
    assert error.where is not None
    assert error.where.endswith(f"w.yaml{line}")
    assert error.hint


def test_aliases_cannot_multiply_without_bound(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "aliases stand for more than" in str(refused(write("\n".join(lines))))


def test_numbers_too_long_for_python_are_refused(write: Write) -> None:
    assert "rate" in str(refused(write(MINIMAL.replace("rate: 10", f"rate: {'9' * 10_000}"))))
    text = json.dumps(yaml.safe_load(MINIMAL)).replace("10,", "9" * 10_000 + ",")
    assert "rate" in str(refused(write(text, "w.json")))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert "directory" in str(refused(tmp_path))
    assert "no such file" in str(refused(tmp_path / "nowhere.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-16" in str(refused(tmp_path / "binary.yaml"))


def test_lone_surrogates_in_json_are_refused(write: Write) -> None:
    text = json.dumps(yaml.safe_load(MINIMAL)).replace('"a"', '"\\ud800"')
    assert "services[0].name: must be text" in str(refused(write(text, "w.json")))


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_but_never_breaks(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "w.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert refused(path).what


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = data.keys() if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    return [path, *(each for key in keys for each in paths(data[key], (*path, key)))]


@given(st.data())
def test_any_value_in_any_field_is_read_or_refused_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    document = copy.deepcopy(yaml.safe_load(FULL))
    path = data.draw(st.sampled_from([each for each in paths(document) if each]))
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = data.draw(VALUES)
    file = tmp_path_factory.mktemp("any") / "w.json"
    (file.parent / "more").mkdir()
    for table in ("perf.csv", "more/perf.parquet"):
        (file.parent / table).touch()
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    try:
        assert isinstance(read_workload(file), Workload)
    except InputError as error:
        assert f"{file}:" in str(error)  # noqa: PT017 -- either outcome is right


SERVICES = st.lists(
    st.fixed_dictionaries({"rate": st.floats(0.001, 1e6), "latency": st.floats(0.1, 1e6)}),
    min_size=1,
    max_size=20,
)


@given(SERVICES, st.integers(0, 19))
def test_the_line_named_is_the_line_of_the_fault(
    tmp_path_factory: pytest.TempPathFactory, services: list[dict[str, float]], index: int
) -> None:
    index %= len(services)
    services = [dict(each) for each in services]
    services[index]["rate"] = -1.0
    text = MINIMAL.rpartition("  -")[0]
    for number, each in enumerate(services):
        text += f"  - name: s{number}\n    model: m\n    rate: {each['rate']!r}\n"
        text += f"    slo: {{latency_ms: {each['latency']!r}}}\n"
    path = tmp_path_factory.mktemp("any") / "w.yaml"
    path.write_text(text, encoding="utf-8")
    error = refused(path)
    line = int((error.where or "").rpartition(":")[2])
    assert text.splitlines()[line - 1].strip() == "rate: -1.0"
    assert error.what.startswith(f"services[{index}].rate: ")


KINDS: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
}


def holds(schema: dict[str, Any], root: dict[str, Any], value: object) -> bool:
    """Check a value against the parts of JSON Schema that the workload's schema uses."""
    if "$ref" in schema:
        return holds(root["$defs"][schema["$ref"].rpartition("/")[2]], root, value)
    if "anyOf" in schema:
        return any(holds(each, root, value) for each in schema["anyOf"])
    return (
        value in schema.get("enum", [value])
        and value == schema.get("const", value)
        and isinstance(value, KINDS[schema["type"]] if "type" in schema else object)
        and not (isinstance(value, dict) and not holds_mapping(schema, root, value))
        and not (isinstance(value, list) and not holds_list(schema, root, value))
        and not (isinstance(value, int | float) and not holds_number(schema, value))
    )


def holds_mapping(schema: dict[str, Any], root: dict[str, Any], value: dict[str, Any]) -> bool:
    more = schema["additionalProperties"]
    if more is not False:
        names = schema["propertyNames"]["pattern"]
        return all(re.search(names, key) and holds(more, root, each) for key, each in value.items())
    known: dict[str, Any] = schema["properties"]
    return set(schema.get("required", [])) <= set(value) <= set(known) and all(
        holds(known[key], root, each) for key, each in value.items()
    )


def holds_list(schema: dict[str, Any], root: dict[str, Any], value: list[Any]) -> bool:
    least: int = schema.get("minItems", 0)
    return len(value) >= least and all(holds(schema["items"], root, each) for each in value)


def holds_number(schema: dict[str, Any], value: float) -> bool:
    above, least = schema.get("exclusiveMinimum", -math.inf), schema.get("minimum", -math.inf)
    below, most = schema.get("exclusiveMaximum", math.inf), schema.get("maximum", math.inf)
    return bool(above < value < below and least <= value <= most)


def described(schema: dict[str, Any]) -> list[dict[str, Any]]:
    objects = [schema, *schema["$defs"].values()]
    return [field for each in objects for field in each["properties"].values()]


def test_the_schema_takes_what_is_read_and_refuses_what_is_not() -> None:
    schema = schema_of(WORKLOAD)
    assert holds(schema, schema, yaml.safe_load(MINIMAL))
    assert holds(schema, schema, yaml.safe_load(FULL.replace("1e3", "1000.0")))
    assert not holds(schema, schema, yaml.safe_load(MINIMAL.replace("rate: 10", "rate: 0")))
    assert not holds(schema, schema, yaml.safe_load(MINIMAL.replace("rate: 10", "rates: 10")))


def test_every_field_of_the_schema_says_what_it_means_and_its_examples_hold() -> None:
    schema = schema_of(WORKLOAD)
    for field in described(schema):
        assert field["description"]
        for example in field.get("examples", []):
            assert holds({k: v for k, v in field.items() if k != "examples"}, schema, example)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("bursts", "must be 'constant' or 'poisson' or a mapping"),
        ("{}", "arrivals are gamma or a trace"),
        ("{gamma: {cv: 0}}", "must be above 0, not 0"),
        ("{gamma: {cv: 3}, trace: a.csv}", "arrivals are gamma or a trace"),
        ("{trace: none.csv}", "there is no file"),
    ],
)
def test_names_wrong_arrivals(tmp_path: Path, written: str, fault: str) -> None:
    path = tmp_path / "workload.yaml"
    (tmp_path / "perf.csv").touch()
    path.write_text(
        "apiVersion: partita/v1\nkind: Workload\nperformance: [perf.csv]\ngpus: [{model: a100-80gb}]\nservices:\n"
        f"  - {{name: a, model: m, rate: 1, slo: {{latency_ms: 9}}, arrivals: {written}}}\n"
    )
    with pytest.raises(InputError) as found:
        read_workload(path)
    assert "services[0].arrivals" in str(found.value)
    assert fault in str(found.value)


@pytest.mark.parametrize(
    ("quantile", "cut", "process", "waits"),
    [
        (None, None, "constant", False),
        (0.99, None, "poisson", True),
        (0.99, "search", "poisson", False),
        (None, "search", "poisson", False),
    ],
)
def test_queries_of_a_service_with_a_quantile_are_poisson(
    quantile: float | None, cut: Literal["search"] | None, process: str, *, waits: bool
) -> None:
    batches = Batches(median=2) if cut else None
    service = ServiceSpec(
        name="a", model="m", rate=1.0, slo=Slo(latency_ms=9.0, quantile=quantile), cut=cut, batches=batches
    )
    assert (service.process, service.waits) == (process, waits)
