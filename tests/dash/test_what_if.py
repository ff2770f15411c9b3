"""What a what-if answers: held to plans of workloads that are written as the what-if says."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from partita import examples
from partita.dash.model import PoolWhatIf, ServiceWhatIf, WhatIf
from partita.dash.plans import inputs
from partita.dash.what_if import answer, as_yaml, bound, changed, command, read_settings
from partita.deadline import Deadline
from partita.errors import InputError
from partita.planner import check, plan, prepare, read_prepared
from partita.planning.document import parse_plan
from partita.workload import read_workload

if TYPE_CHECKING:
    from partita.planner import PreparedWorkload

DAY = Path(examples.__file__).parent / "day.yaml"


@pytest.fixture(scope="module")
def day() -> PreparedWorkload:
    return read_prepared(DAY)


def of_service(name: str = "photo-search", **fields: float) -> WhatIf:
    return WhatIf(services={name: ServiceWhatIf(**fields)})


def test_nothing_changed_is_the_plan_of_the_workload(day: PreparedWorkload) -> None:
    made = plan(day).plan
    found = answer(day, WhatIf(), applied={"a100-80gb": len(made.gpus)})
    assert found.plan is not None
    assert (found.feasible, found.plan.gpus, found.now) == (True, len(made.gpus), len(made.gpus))
    assert found.bound == made.objective.lower_bound
    assert (found.why, found.short, found.binds, found.yaml) == (None, {}, {}, "")
    assert found.plan.document == {}
    assert found.command == "partita plan -f workload.yaml"


def test_the_inputs_are_what_the_workload_says_and_saying_them_again_changes_nothing(
    day: PreparedWorkload,
) -> None:
    found = inputs(day.workload)
    assert [each.name for each in found.services] == [each.name for each in day.workload.services]
    again = WhatIf(
        services={
            each.name: ServiceWhatIf(each.rate, each.latency_ms, each.quantile) for each in found.services
        },
        pools={each.name: PoolWhatIf(each.count, each.price) for each in found.pools},
    )
    assert changed(day, again).workload == day.workload


def test_it_answers_as_a_workload_that_says_the_same(day: PreparedWorkload, tmp_path: Path) -> None:
    asked = WhatIf(
        services={
            "photo-search": ServiceWhatIf(rate=12000, latency_ms=70),
            "moderation": ServiceWhatIf(rate=0),
        },
        pools={"a100-80gb": PoolWhatIf(count=20, price=2.5)},
        document=True,
    )
    document = yaml.safe_load(DAY.read_text())
    document["performance"] = [str(DAY.parent / "perf.csv")]
    document["gpus"][0] |= {"count": 20, "cost_per_hour": 2.5}
    document["services"] = [each for each in document["services"] if each["name"] != "moderation"]
    (mine,) = (each for each in document["services"] if each["name"] == "photo-search")
    mine |= {"rate": 12000, "slo": {"latency_ms": 70}}
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(document))

    found, other = answer(day, asked, words=("partita", "plan", "-f", "day.yaml")), read_prepared(path)
    made = plan(other).plan
    assert found.plan is not None
    assert found.plan.gpus == len(made.gpus)
    assert found.plan.cost == pytest.approx(2.5 * len(made.gpus))
    assert check(parse_plan(yaml.dump(found.plan.document), "answer"), other) == []
    # As YAML: its entries written over the old ones are that workload.
    said = yaml.safe_load(found.yaml)
    assert said["gpus"] == document["gpus"] or said["gpus"][0] == {
        "model": "a100-80gb",
        "count": 20,
        "cost_per_hour": 2.5,
    }
    assert said["services"] == [mine]
    assert '# leave out "moderation"' in found.yaml
    # As a command: what it sets is what was asked.
    words = found.command.split()
    assert words[:4] == ["partita", "plan", "-f", "day.yaml"]
    again = read_settings(words[5::2])
    assert (again.services, again.pools) == (asked.services, asked.pools)


def test_the_command_plans_the_same(day: PreparedWorkload) -> None:
    asked = of_service(rate=4000)
    found = answer(day, asked, words=("partita", "plan", "-f", str(DAY)))
    assert found.plan is not None
    words = [*found.command.split()[1:], "-o", "json"]
    told = subprocess.run(
        [sys.executable, "-m", "partita", *words], capture_output=True, text=True, check=True
    )
    assert len(yaml.safe_load(told.stdout)["gpus"]) == found.plan.gpus


@pytest.mark.parametrize(
    ("rate", "latency", "count"), [(50, 400, 24), (9000, 90, 17), (9000, 90, 15), (20000, 30, 24)]
)
def test_the_bound_never_exceeds_a_plan(
    day: PreparedWorkload, rate: float, latency: float, count: int
) -> None:
    asked = of_service(rate=rate, latency_ms=latency).replace(pools={"a100-80gb": PoolWhatIf(count=count)})
    first, found = answer(day, asked.replace(until="bound")), answer(day, asked)
    assert first.plan is None
    if found.plan is None:
        assert found.why
        assert (found.feasible, found.bound) == (False, None)
        return
    assert first.feasible
    assert first.bound is not None
    assert found.bound is not None
    assert first.bound <= found.bound <= found.plan.gpus <= count


def test_too_few_gpus_are_an_answer(day: PreparedWorkload) -> None:
    asked = WhatIf(pools={"a100-80gb": PoolWhatIf(count=10)})
    found = answer(day, asked)
    assert (found.feasible, found.plan, found.bound) == (False, None, None)
    assert "that takes 16 at least" in (found.why or "")
    assert found.short
    assert all(0 < missing <= 12000 for missing in found.short.values())


def test_one_gpu_too_few_says_how_many_are_needed_and_who_falls_short(day: PreparedWorkload) -> None:
    needed = answer(day, WhatIf()).plan
    assert needed is not None
    found = answer(day, WhatIf(pools={"a100-80gb": PoolWhatIf(count=needed.gpus - 1)}))
    assert not found.feasible
    assert f"that takes {needed.gpus} at least" in (found.why or "")
    assert found.short


@given(st.floats(1000, 20000), st.floats(60, 200), st.integers(-2, 1))
@settings(max_examples=8)
def test_at_the_edge_an_answer_is_what_the_planner_says(
    day: PreparedWorkload, rate: float, latency: float, more: int
) -> None:
    asked = of_service(rate=rate, latency_ms=latency)
    needed = len(plan(changed(day, asked.replace(pools={"a100-80gb": PoolWhatIf(count=999)}))).plan.gpus)
    found = answer(day, asked.replace(pools={"a100-80gb": PoolWhatIf(count=needed + more)}, seconds=60.0))
    assert found.feasible == (more >= 0)
    if found.plan is None:
        assert f"that takes {needed} at least" in (found.why or "") or more < -1
        assert found.short
    else:
        assert found.plan.gpus == found.bound == needed


def test_without_time_for_a_plan_the_bound_is_an_answer(day: PreparedWorkload) -> None:
    asked = WhatIf(pools={"a100-80gb": PoolWhatIf(count=16)})
    found = answer(day, asked, deadline=Deadline(0.0))
    assert found.bound == 16
    if found.plan is None:  # a greedy pass may find one even so
        assert not found.feasible
        assert "more seconds" in (found.why or "")


def test_no_gpu_at_all_is_an_answer(day: PreparedWorkload) -> None:
    asked = WhatIf(pools={"a100-80gb": PoolWhatIf(count=0)})
    for until in ("bound", "plan"):
        found = answer(day, asked.replace(until=until))
        assert (found.feasible, found.plan, found.bound) == (False, None, None)
        assert found.why
    assert found.yaml == 'gpus:\n  # leave out "a100-80gb"\n'


def test_a_promise_that_no_profile_can_keep_is_an_answer(day: PreparedWorkload) -> None:
    found = answer(day, of_service(latency_ms=3))
    assert (found.feasible, found.plan, found.short) == (False, None, {"photo-search": 8700})
    assert "raise slo.latency_ms to at least 10.5" in (found.why or "")


def test_it_says_what_binds_each_changed_service(day: PreparedWorkload) -> None:
    tight = answer(day, of_service(latency_ms=60).replace(until="bound"))
    assert tight.binds["photo-search"].startswith("its latency, on ")
    loose = answer(day, of_service(latency_ms=2000))
    assert loose.binds["photo-search"].startswith("nothing measured is faster, on ")
    assert set(loose.binds) == {"photo-search"}


@pytest.mark.parametrize(
    ("asked", "where", "hint"),
    [
        (of_service("photo-serch", rate=1), "services.photo-serch", "photo-search"),
        (WhatIf(pools={"a100": PoolWhatIf(count=2)}), "pools.a100", "a100-80gb"),
        (of_service(rate=1e300), "services.photo-search.rate", ""),
        (of_service(latency_ms=1e300), "services.photo-search.latency_ms", ""),
        (WhatIf(pools={"a100-80gb": PoolWhatIf(count=10**15)}), "pools.a100-80gb.count", ""),
        (WhatIf(pools={"a100-80gb": PoolWhatIf(price=1e300)}), "pools.a100-80gb.price", ""),
        (
            WhatIf(
                services={
                    name: ServiceWhatIf(rate=0)
                    for name in (
                        "answer-finder",
                        "autocomplete",
                        "moderation",
                        "photo-search",
                        "text-embedding",
                    )
                }
            ),
            "services",
            "above 0",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(day: PreparedWorkload, asked: WhatIf, where: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        answer(day, asked)
    assert error.value.where == where
    assert hint in (error.value.hint or "")


def test_several_that_cannot_be_asked_are_told_at_once_by_their_names_there(day: PreparedWorkload) -> None:
    asked = of_service(rate=1e300, latency_ms=1e300).replace(pools={"a100-80gb": PoolWhatIf(count=10**15)})
    with pytest.raises(InputError) as error:
        answer(day, asked)
    assert error.value.what.startswith("3 faults")
    for field in ("services.photo-search.rate", "services.photo-search.latency_ms", "pools.a100-80gb.count"):
        assert field in error.value.what


@pytest.mark.parametrize(
    "text", ["rate=3", "a.b", "a.speed=2", ".rate=2", "a.rate=fast", "a.count=1.5", "a.rate=-1", "a.rate=nan"]
)
def test_settings_that_set_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        read_settings([text])
    assert (error.value.where or "").startswith("--set")


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12),
    st.floats(0, allow_infinity=False),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_any_name_and_any_number_survive_the_command(name: str, rate: float, quantile: float) -> None:
    asked = WhatIf(services={name: ServiceWhatIf(rate=rate, quantile=quantile)})
    words = shlex.split(command(asked, ("partita", "plan", "-f", "w.yaml")))
    assert read_settings(words[5::2]) == asked


def test_the_yaml_of_a_service_says_all_that_it_says(tmp_path: Path) -> None:
    path = DAY.parent / "workload.yaml"
    workload = read_workload(path)
    asked = WhatIf(services={each.name: ServiceWhatIf(rate=each.rate) for each in workload.services})
    document = yaml.safe_load(path.read_text())
    document["services"] = yaml.safe_load(as_yaml(workload, asked))["services"]
    document["performance"] = [str(path.parent / "perf.csv")]
    other = tmp_path / "same.yaml"
    other.write_text(yaml.safe_dump(document))
    assert read_workload(other).services == workload.services


def test_waiting_is_simulated_once() -> None:
    """What a service whose queries wait can hold comes from simulations; those of the others are not made again."""
    whole = read_workload(DAY.parent / "workload.yaml")
    base = prepare(whole.replace(services=whole.services[:1]))
    there = changed(base, of_service(rate=7000))
    assert there.formulation.capacities is base.formulation.capacities
    fresh = prepare(there.workload, base.table)
    assert bound(there) == bound(fresh)
    assert [each.points for each in there.problem.services] == [
        each.points for each in fresh.problem.services
    ]


def test_a_service_with_a_cut_counts_in_the_bound() -> None:
    base = read_prepared(DAY.parent / "queries.yaml")
    found = answer(base, of_service("text-embedding", rate=9600).replace(until="bound"))
    before = answer(base, WhatIf(until="bound"))
    assert found.bound is not None
    assert before.bound is not None
    assert found.bound > before.bound > bound(replaced_without_cuts(base))
    assert found.binds == {"text-embedding": "it has GPUs of its own, cut by search"}


def replaced_without_cuts(base: PreparedWorkload) -> PreparedWorkload:
    return replace(base, cuts=())
