"""The library, through `import partita` alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import partita

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = Path(__file__).resolve().parents[1] / "src" / "partita" / "examples"
TABLE = pd.DataFrame(
    {
        "model": ["bert"] * 6,
        "gpu": ["a100-80gb"] * 6,
        "profile": ["1g.10gb", "1g.10gb", "2g.20gb", "2g.20gb", "7g.80gb", "7g.80gb"],
        "batch": [1, 8] * 3,
        "processes": [1] * 6,
        "throughput": [50.0, 120, 95, 250, 300, 850],
        "latency_ms": [20.0, 66, 10, 32, 3.4, 9.4],
        "quantile": ["0.99"] * 6,
    }
)

offered: Any = partita
"""The library as those see it who check no types."""


def workload(rate: float = 300, **more: Any) -> partita.Workload:
    service = partita.ServiceSpec("search", model="bert", rate=rate, slo=partita.Slo(40), **more)
    return partita.Workload(gpus=(partita.PoolSpec("a100-80gb", count=4),), services=(service,))


@pytest.fixture(scope="module")
def planned() -> partita.PlannedWorkload:
    return partita.plan(workload(), TABLE)


def run(text: str) -> str:
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_takes_next_to_nothing_and_prints_nothing() -> None:
    told = run(
        "import time, sys; before = time.process_time(); import partita; after = time.process_time()\n"
        "print(after - before, [m for m in sys.modules if m.startswith('partita.') or m == 'numpy'])"
    )
    seconds, modules = told.split(maxsplit=1)
    assert float(seconds) < 0.1
    assert modules.strip() == "[]"


def test_all_names_are_there_and_documented() -> None:
    assert set(partita.__all__) <= set(dir(partita))
    for name in partita.__all__:
        assert getattr(partita, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'plann'"):
        _ = partita.plann


def test_names_are_typed_for_those_who_check_types(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    file = tmp_path / "user.py"
    file.write_text(
        "import partita\n"
        "plan = partita.plan('w.yaml')\n"
        "reveal_type(plan.objective.value)\n"
        "reveal_type(partita.read_workload('w.yaml').services)\n"
        "partita.plan(3)\n"
    )
    assert pytestconfig.cache is not None
    kept = str(pytestconfig.cache.mkdir("mypy"))  # most of what it reads is as at the last time
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", kept, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Revealed type is "float"' in done.stdout or 'Revealed type is "builtins.float"' in done.stdout
    assert "ServiceSpec" in done.stdout
    assert 'Argument 1 to "plan" has incompatible type "int"' in done.stdout


def test_five_lines_plan_a_workload_from_a_frame(planned: partita.PlannedWorkload) -> None:
    assert planned.objective.value == 1
    assert planned.objective.proven
    assert repr(planned) == "<1 GPU, proven optimal (bound 1), for 1 service>"
    frame = planned.to_frame("pandas")
    assert frame["throughput"].sum() >= 300
    assert set(frame["service"]) == {"search"}
    assert planned.services_frame("polars").row(0, named=True)["instances"] == len(frame)
    assert planned.performance.models == ("bert",)


@pytest.mark.parametrize(
    "given", [TABLE, pl.DataFrame(TABLE), [TABLE.head(3), TABLE.tail(3)], partita.PerfTable.from_frame(TABLE)]
)
def test_a_table_may_come_in_any_form(given: object, planned: partita.PlannedWorkload) -> None:
    assert partita.plan(workload(), given).to_dict()["gpus"] == planned.to_dict()["gpus"]


def test_a_workload_may_be_made_of_plain_values() -> None:
    plain = partita.Workload(
        gpus=[{"model": "A100-SXM4-80GB"}],  # type: ignore[arg-type]  # as notebooks write it
        services=[{"name": "s", "model": "bert", "rate": 10, "slo": {"latency_ms": 40}}],  # type: ignore[arg-type]
    )
    assert partita.plan(plain, TABLE).gpus[0].model == "a100-80gb"


def test_files_are_planned_as_the_command_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = partita.plan(EXAMPLES / "workload.yaml")
    made.save(tmp_path / "plan.json")
    assert partita.check(tmp_path / "plan.json", EXAMPLES / "workload.yaml")
    read = partita.read_plan(tmp_path / "plan.json")
    assert [gpu.id for gpu in read.gpus] == [gpu.id for gpu in made.gpus]
    assert len(partita.diff(read, made)) == 0
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "partita",
            "plan",
            "-f",
            str(EXAMPLES / "workload.yaml"),
            "--check",
            str(tmp_path / "plan.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert made.notes
    assert capfd.readouterr() == ("", "")


def test_the_checker_says_what_is_wrong(planned: partita.PlannedWorkload) -> None:
    assert partita.check(planned)
    found = partita.check(planned, workload(rate=2000), TABLE)
    assert not found
    assert found.to_frame("pandas")["where"].tolist() == [where for where, _ in found.faults]
    assert found.to_dict()["meets"] is False
    with pytest.raises(partita.InputError, match="a plan alone does not give its workload"):
        partita.check(planned.plan)


def test_what_if_changes_a_copy() -> None:
    before = workload()
    after = partita.replace(
        before, services={"search": {"rate": 3000, "slo": {"quantile": 0.99}}}, objective="gpus"
    )
    assert (before.services[0].rate, after.services[0].rate) == (300, 3000)
    assert (after.services[0].slo.latency_ms, after.services[0].slo.quantile) == (40, 0.99)
    assert partita.plan(after, TABLE).objective.value > 1
    wider = partita.replace(before, gpus=[partita.PoolSpec("a100-80gb")])
    assert wider.gpus[0].count is None
    with pytest.raises(partita.InputError, match="rate") as error:
        partita.replace(before, services={"search": {"rate": -1}})
    assert error.value.hint
    with pytest.raises(partita.InputError, match="no service 'serch'") as error:
        partita.replace(before, services={"serch": {"rate": 1}})
    assert error.value.hint == "did you mean search?"
    with pytest.raises(partita.InputError, match="unknown key"):
        partita.replace(before, objectiv="cost")
    with pytest.raises(partita.InputError, match="not empty"):
        partita.replace(before, services={"search": None})


def test_errors_are_those_of_the_command_line() -> None:
    with pytest.raises(partita.InfeasibleError, match="search") as short:
        partita.plan(workload(rate=1e6), TABLE)
    assert short.value.hint
    with pytest.raises(partita.InputError, match="rate: must be") as wrong:
        partita.plan(workload(rate=-3), TABLE)
    assert wrong.value.where == "the workload"
    with pytest.raises(partita.InputError, match="there is no planner 'exat'") as unknown:
        partita.plan(workload(), TABLE, planner="exat")
    assert unknown.value.hint == "did you mean exact?"
    with pytest.raises(partita.InputError, match="no such file"):
        partita.read_workload("nowhere.yaml")
    with pytest.raises(partita.PartitaError, match="bert"):
        partita.plan(workload())


def test_an_explanation_has_a_row_for_each_profile(planned: partita.PlannedWorkload) -> None:
    found = partita.explain(planned, ["search"])
    frame = found.to_frame("pandas")
    assert frame["profile"].tolist() == ["1g.10gb", "2g.20gb", "7g.80gb"]
    assert frame["binds"].tolist()[0] == "latency"
    assert [each["change"] for each in found.to_dict()["services"][0]["changes"]] == [
        "rate +10 %",
        "SLO +20 %",
    ]
    with pytest.raises(partita.InputError, match="no service 'serch'"):
        partita.explain(planned, ["serch"])


def test_the_way_between_two_plans(planned: partita.PlannedWorkload, tmp_path: Path) -> None:
    more = partita.plan(workload(rate=1500), TABLE)
    found = partita.diff(planned, more)
    assert len(found) == len(found.to_frame("polars")) == len(found.to_dict()["actions"]) > 0
    assert found.seconds > 0
    assert len(partita.diff(more, more)) == 0
    more.save(tmp_path / "more.json")
    assert (
        len(
            partita.diff(
                planned.plan, tmp_path / "more.json", algorithm="exchange-compact", durations="paper"
            )
        )
        > 0
    )
    for wrong in ({"algorithm": "shorter"}, {"durations": "guessed"}):
        with pytest.raises(partita.InputError):
            partita.diff(planned, more, **wrong)  # type: ignore[arg-type]


def test_a_plan_is_simulated_as_a_whole(planned: partita.PlannedWorkload, tmp_path: Path) -> None:
    calm = partita.replace(planned.workload, services={"search": {"slo": {"quantile": 0.99}, "rate": 100}})
    found = partita.simulate_plan(planned, calm, TABLE, queries=500, load=0.5)
    assert found
    assert found.to_frame("pandas")["kept"].tolist() == ["yes"]
    assert found.to_dict()["services"][0]["queries_per_second"] == 50.0
    assert "Promises, simulated" in found.to_html(tmp_path / "page.html")
    assert repr(found) == "<1 of 1 service keeps its promise>"
    lost = partita.simulate_plan(planned, calm, TABLE, queries=500, without="node-0")
    assert not lost
    plain = partita.simulate_plan(planned, queries=500)
    assert (plain.services[0].promised, bool(plain)) == (None, True)
    with pytest.raises(partita.InputError, match="queries: must be at least 100"):
        partita.simulate_plan(planned, queries=5)
    with pytest.raises(partita.InputError, match="for simulations alone"):
        partita.simulate_plan(planned, queries=500, router="kairos")


def test_queries_are_simulated() -> None:
    asked = partita.replace(
        workload(rate=200), services={"search": {"cut": "fluid", "batches": {"median": 2, "max": 8}}}
    )
    found = partita.simulate(asked, TABLE, cut="fluid", gpus=1, queries=2000)
    assert 0 < found.attainment <= 1
    assert len(found.to_frame("pandas")) == len(found.simulation.evaluation.slices)
    assert found.to_dict()["router"] == "late-binding"
    assert "in time" in repr(found)
    assert "Serving search" in found._repr_html_()
    for wrong, told in (({"cut": "fluidd"}, "fluid"), ({"router": "fif"}, "fifs")):
        with pytest.raises(partita.InputError) as error:
            partita.simulate(asked, TABLE, gpus=1, queries=2000, **wrong)  # type: ignore[arg-type]
        assert error.value.hint == f"did you mean {told}?"


def test_the_catalogue_is_a_mapping_and_a_frame() -> None:
    known = partita.catalogue()
    assert known["a100-80gb"].profile("1g.10gb").compute == 1
    assert len(known) == len(list(known)) >= 24
    assert {"gpu", "profile", "memory_mib"} <= set(known.to_frame("polars").columns)


def test_results_draw_themselves_for_a_notebook(planned: partita.PlannedWorkload, tmp_path: Path) -> None:
    results: list[Any] = [
        planned,
        partita.check(planned),
        partita.explain(planned),
        partita.diff(planned, planned),
        partita.catalogue(),
    ]
    for each in results:
        html = each._repr_html_()
        assert html.startswith("<div class=partita>"), each
        assert html.count("<div") == html.count("</div"), each
        style = html.partition("<style>")[2].partition("</style>")[0]
        assert style.strip().startswith(".partita {"), each
        assert not any(line.strip().startswith((":root", "body")) for line in style.splitlines()), each
        assert "<script" not in html
    assert "search" in planned._repr_html_()
    page = planned.to_html(tmp_path / "plan.html")
    assert page.startswith("<!doctype html>")
    assert (tmp_path / "plan.html").read_text() == page


def test_planning_again_gives_the_same_plan(planned: partita.PlannedWorkload) -> None:
    again = partita.plan(planned.workload, planned.performance, seed=0)
    assert again.gpus == planned.gpus


ROWS = TABLE.to_dict("list")


@pytest.mark.parametrize(
    "given",
    [
        TABLE.set_index("model"),
        TABLE.set_index(["model", "profile"]),
        TABLE.set_index("model", drop=False),
        TABLE.astype(dict.fromkeys(("model", "gpu", "profile", "batch", "quantile"), "category")),
        TABLE.convert_dtypes(),
        TABLE.convert_dtypes(dtype_backend="pyarrow"),
        TABLE.assign(**{"7": [[1]] * 6}).rename(columns={"7": 7}),
        pl.DataFrame(ROWS).with_columns(pl.col("profile").cast(pl.Categorical)).lazy(),
        pa.table(ROWS).set_column(0, "model", pa.array(ROWS["model"]).dictionary_encode()),
        pa.table(ROWS).append_column("passed over", pa.array([[1]] * 6)).to_reader(),
        [TABLE.iloc[:2], TABLE.iloc[2:]],
    ],
    ids=lambda given: type(given).__name__,
)
def test_frames_are_read_as_data_scientists_have_them(given: object) -> None:
    table = partita.read_performance(*(given if isinstance(given, list) else [given]))
    assert list(table) == list(partita.read_performance(TABLE))
    assert repr(table) == "<6 measurements: 1 model on 1 GPU>"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (TABLE["model"], "Series is not a table"),
        (pl.Series([1]), "Series is not a table"),
        (TABLE.to_dict("records"), "list is not a table"),
        (pd.DataFrame(), "it has no columns"),
        (TABLE.iloc[:0], "a header and no rows"),
        (pd.DataFrame([[1, 2]]), "its columns are 0, 1"),
        (TABLE.pivot_table(index="profile", columns="batch", values=["latency_ms"]), "7 faults of 2 kinds"),
        (pd.concat([TABLE, TABLE[["model"]]], axis=1), "Expected unique column names"),
        (TABLE.drop(columns="model"), "no column 'model'"),
        (TABLE.assign(throughput=float("nan")), "throughput is empty"),
        (TABLE.assign(throughput=[[1.0]] * 6), "throughput is a list, not a single value"),
        (pl.DataFrame(ROWS).with_columns(pl.concat_list("batch")), "batch is a list, not a single value"),
        (pl.DataFrame(ROWS).lazy().select("nope"), 'unable to find column "nope"'),
        (pl.scan_csv("nope.csv"), "No such file or directory"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_no_table_says_why(given: object, told: str) -> None:
    with pytest.raises(partita.InputError) as caught:
        partita.read_performance(given)
    assert told in str(caught.value)
    assert "\n\n" not in str(caught.value)


def test_of_several_frames_the_error_says_which() -> None:
    with pytest.raises(partita.InputError, match="frame 2: no column 'model'") as caught:
        partita.read_performance(TABLE, TABLE.drop(columns="model"))
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("give the frame's columns these names")


def test_values_of_numpy_and_pandas_are_values() -> None:
    service = offered.ServiceSpec(
        np.str_("search"),
        model="bert",
        rate=np.float64(300),
        slo=offered.Slo(np.int64(40)),
        min_replicas=np.int64(2),
    )
    made = partita.Workload(gpus=[partita.PoolSpec("a100-80gb", count=4)], services=pd.Series([service]))  # type: ignore[arg-type]
    changed = partita.replace(
        made, services={"search": {"rate": np.float64(200), "slo": {"latency_ms": np.int64(50)}}}
    )
    assert (changed.services[0].rate, changed.services[0].slo.latency_ms) == (200, 50)
    plan = partita.plan(made, TABLE, seed=np.int64(1), time_limit=np.float32(30))  # type: ignore[arg-type]
    assert plan.services[0].rate == 300
    with pytest.raises(partita.InputError, match="a generator cannot be part of a document"):
        partita.plan(partita.Workload(gpus=made.gpus, services=(s for s in [service])), TABLE)  # type: ignore[arg-type]


def test_one_name_needs_no_list(planned: partita.PlannedWorkload) -> None:
    assert len(partita.explain(planned, "search").services) == 1
    assert len(partita.explain(planned, (name for name in ["search"])).services) == 1
    assert partita.diff(planned, planned, forbid="4g+3g").to_frame().empty


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda _, __: offered.plan({"gpus": []}, TABLE), "a dict is not a workload"),
        (lambda _, __: offered.plan(None, TABLE), "a NoneType is not a workload"),
        (lambda _, __: offered.replace("w.yaml", services={}), "a str is not a workload"),
        (lambda w, _: offered.replace(w, services=["search"]), "services: must be a mapping, not a list"),
        (lambda w, _: offered.replace(w, services={"search": 5}), "search: must be a mapping, not 5"),
        (lambda w, _: offered.plan(w, TABLE, planner=5), "planner: must be text, not 5"),
        (lambda w, _: offered.plan(w, TABLE, time_limit=float("nan")), "time_limit: must be a finite number"),
        (lambda w, _: offered.plan(w, TABLE, time_limit=-1), "time_limit: must be at least 0"),
        (lambda w, _: offered.plan(w, TABLE, seed="a"), "seed: must be a whole number, not 'a'"),
        (lambda w, _: offered.check(TABLE, w, TABLE), "a DataFrame is not a plan"),
        (lambda w, p: offered.diff(p, w), "a Workload is not a plan"),
        (lambda _, p: offered.diff(p, p, extra_gpus=-1), "extra_gpus: must be at least 0, not -1"),
        (lambda _, p: offered.diff(p, p, extra_gpus=1.5), "extra_gpus: must be a whole number, not 1.5"),
        (lambda _, p: offered.explain(p, 5), "services: must be"),
        (lambda _, p: p.to_frame(3), "frames cannot be made of 3"),
        (lambda _, p: offered.read_plan(p.to_dict()), "the path of a file is needed, not a dict"),
        (lambda _, __: offered.read_workload(None), "the path of a file is needed, not a NoneType"),
        (lambda w, _: offered.simulate(w, TABLE, queries=0), "queries: must be at least 1, not 0"),
        (lambda w, _: offered.simulate(w, TABLE, gpus=0), "gpus: must be at least 1, not 0"),
        (
            lambda w, _: offered.simulate(w, TABLE, arrivals="pois"),
            "arrivals: must be 'day', 'gamma' or 'poisson'",
        ),
        (lambda w, _: offered.simulate(w, TABLE, quantile=2), "quantile: must be below 1, not 2"),
        (lambda w, _: offered.simulate(w, TABLE, seed=-1), "seed: must be at least 0, not -1"),
        (lambda w, _: offered.simulate(w, TABLE, cut=None), "cut: must be text"),
        (lambda w, _: offered.simulate(w, TABLE, trace=TABLE), "a DataFrame cannot be part of a document"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_an_argument_of_another_kind_is_refused_by_its_name(
    call: Callable[[Any, Any], object], told: str, planned: partita.PlannedWorkload
) -> None:
    with pytest.raises(partita.InputError) as caught:
        call(workload(), planned)
    assert told in str(caught.value)
