from __future__ import annotations

import io
import json
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.errors import InputError
from partita.mig.catalogue import gpu_model
from partita.mig.layout import Placement, maximal_layouts
from partita.perf.operating_point import OperatingPoint
from partita.planning.document import read_plan, write_plan
from partita.planning.plan import Instance, Objective, Plan, PlannedGpu, ServiceCapacity, Solver, WorstLoss

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
NUMBERS = st.floats(0, 1e12, allow_nan=False)
FIGURES = NUMBERS.map(lambda value: float(f"{value:.12g}"))
"""What planners compute is written to twelve digits; measurements are written in full."""
MODELS = ("a100-80gb", "a30-24gb", "h100-80gb")


def text_of(plan: Plan) -> str:
    stream = io.StringIO()
    write_plan(plan, stream)
    return stream.getvalue()


def sample() -> Plan:
    point = OperatingPoint("3g.40gb", 64, 2, 871.2, 146.9, "")
    instance = Instance(Placement(4, "3g.40gb"), "resnet50", "resnet50", point)
    return Plan(
        Objective("gpus", 1, 1),
        Solver("exact", 0, 0.05),
        (ServiceCapacity("resnet50", 829, 871.2, 204.5),),
        (PlannedGpu("node-0/gpu-0", "a100-80gb", (instance,)),),
    )


@st.composite
def instances(draw: st.DrawFn, model: str) -> tuple[Instance, ...]:
    layout = draw(st.sampled_from(maximal_layouts(gpu_model(model))))
    return tuple(
        Instance(
            placement,
            draw(NAMES),
            draw(NAMES),
            OperatingPoint(
                placement.profile,
                draw(st.integers(1, 512)),
                draw(st.integers(1, 5)),
                draw(NUMBERS),
                draw(NUMBERS),
                "",
                estimated=draw(st.booleans()),
            ),
        )
        for placement in layout
        if draw(st.booleans())
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    chosen = draw(st.lists(st.sampled_from(MODELS), max_size=4))
    maybe = st.just("") | NAMES
    ids = draw(st.lists(NAMES, min_size=len(chosen), max_size=len(chosen), unique=True))
    gpus = tuple(
        PlannedGpu(each, model, draw(instances(model)), draw(maybe), draw(maybe), draw(maybe))
        for each, model in zip(ids, chosen, strict=True)
    )
    bound, over = draw(FIGURES), draw(FIGURES)
    losses = st.builds(WorstLoss, st.sampled_from(("gpu", "node", "rack", "zone")), FIGURES, NAMES, FIGURES)
    services = st.builds(ServiceCapacity, NAMES, FIGURES, FIGURES, FIGURES, st.none() | losses)
    return Plan(
        Objective(draw(st.sampled_from(("gpus", "cost", "watts"))), float(f"{bound + over:.12g}"), bound),
        Solver(draw(NAMES), draw(st.integers(0, 2**64)), draw(FIGURES)),
        tuple(draw(st.lists(services, max_size=3, unique_by=lambda each: each.name))),
        gpus,
    )


@given(plans())
def test_what_is_written_reads_back_as_the_same_plan(tmp_path_factory: Any, plan: Plan) -> None:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    path.write_text(text_of(plan), encoding="utf-8")
    assert read_plan(path) == plan
    assert text_of(read_plan(path)) == text_of(plan)


def test_what_floating_point_adds_to_sums_is_not_written() -> None:
    plan = replace(
        sample(),
        objective=Objective("cost", 0.1 + 0.2, 0.1 + 0.2),
        services=(ServiceCapacity("resnet50", 3300 * 1.1, 1.1 * 3, 204.5),),
    )
    text = text_of(plan)
    assert '"value": 0.3, "lower_bound": 0.3, "gap": 0' in text
    assert '"rate": 3630, "capacity": 3.3' in text


def test_the_document_has_the_published_names_and_nesting() -> None:
    instance = {"profile": "3g.40gb", "start": 4, "service": "resnet50", "model": "resnet50"}
    point = {"batch": 64, "processes": 2, "throughput": 871.2, "latency_ms": 146.9}
    assert json.loads(text_of(sample())) == {
        "apiVersion": "partita/v1",
        "kind": "Plan",
        "objective": {"name": "gpus", "value": 1, "lower_bound": 1, "gap": 0.0, "proven": True},
        "solver": {"name": "exact", "seed": 0, "seconds": 0.05},
        "services": [{"name": "resnet50", "rate": 829, "capacity": 871.2, "latency_slo_ms": 204.5}],
        "gpus": [{"id": "node-0/gpu-0", "model": "a100-80gb", "instances": [{**instance, **point}]}],
    }


def test_an_estimated_point_is_marked_and_a_measured_one_is_not() -> None:
    plan = sample()
    one = plan.gpus[0].instances[0]
    marked = replace(
        plan,
        gpus=(replace(plan.gpus[0], instances=(replace(one, point=replace(one.point, estimated=True)),)),),
    )
    assert '"estimated": true' in text_of(marked)
    assert "estimated" not in text_of(plan)


def test_each_gpu_has_a_line_of_its_own() -> None:
    plan = sample()
    gpus = tuple(replace(plan.gpus[0], id=f"node-0/gpu-{n}") for n in range(3))
    assert sum('"id"' in line for line in text_of(replace(plan, gpus=gpus)).splitlines()) == 3


def test_gpus_cut_alike_share_their_instances_after_reading(tmp_path: Path) -> None:
    plan = sample()
    gpus = tuple(replace(plan.gpus[0], id=f"node-0/gpu-{n}") for n in range(3))
    path = tmp_path / "plan.json"
    path.write_text(text_of(replace(plan, gpus=gpus)))
    assert len({id(gpu.instances) for gpu in read_plan(path).gpus}) == 1


def test_a_large_plan_is_written_without_holding_its_text() -> None:
    class Sink(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    plan = sample()
    many = replace(plan, gpus=tuple(replace(plan.gpus[0], id=f"gpu-{n}") for n in range(20_000)))
    tracemalloc.start()
    write_plan(many, Sink())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def broken(change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(text_of(sample()))
    change(data)
    return json.dumps(data)


def instance(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["gpus"][0]["instances"][0]
    return found


FAULTS: list[tuple[Callable[[dict[str, Any]], object], str, str]] = [
    (lambda d: d.update(kind="Workload"), "kind", "must be 'Plan', not 'Workload'"),
    (lambda d: d.update(apiVersion="partita/v2"), "apiVersion", "partita/v2"),
    (lambda d: d.update(apiVersion=None), "apiVersion", "not nothing"),
    (lambda d: d.pop("kind"), "", "kind is missing"),
    (lambda d: d.pop("gpus"), "", "gpus is missing"),
    (lambda d: d.update(gpu=[]), "gpu", "unknown key"),
    (lambda d: d.update(gpus={}), "gpus", "must be a list, not an empty mapping"),
    (lambda d: d.update(objective=[1]), "objective", "must be a mapping, not a list"),
    (lambda d: d["objective"].update(gap=0.5), "objective.gap", "gap of 0"),
    (lambda d: d["objective"].update(proven=False), "objective.proven", "true"),
    (lambda d: d["objective"].update(proven=1), "objective.proven", "true or false"),
    (lambda d: d["objective"].update(value="12"), "objective.value", "must be a number, not '12'"),
    (lambda d: d["objective"].update(value=True), "objective.value", "must be a number, not true"),
    (lambda d: d["objective"].update(value=-1), "objective.value", "at least 0"),
    (lambda d: d["solver"].update(seed=0.5), "solver.seed", "whole number"),
    (lambda d: d["services"][0].update(rate=float("nan")), "services[0].rate", "finite"),
    (lambda d: d["services"][0].update(rate=10**400), "services[0].rate", "finite"),
    (lambda d: d["services"][0].update(name=""), "services[0].name", "empty"),
    (lambda d: d["services"][0].update(name="a\x1b[2J"), "services[0].name", "control characters"),
    (lambda d: d["gpus"][0].update(model="a100-80g"), "gpus[0].model", "no GPU 'a100-80g'"),
    (lambda d: d["gpus"][0].update(id=None), "gpus[0].id", "must be text, not nothing"),
    (lambda d: d["gpus"][0].update(id=".."), "gpus[0].id", "more than dots"),
    (lambda d: instance(d).update(service="."), "gpus[0].instances[0].service", "more than dots"),
    (lambda d: d["gpus"].insert(1, d["gpus"][0]), "gpus[1]", "appears twice"),
    (lambda d: d["services"].insert(1, d["services"][0]), "services[1]", "appears twice"),
    (lambda d: d["gpus"][0]["instances"].append(3), "gpus[0].instances[1]", "must be a mapping, not 3"),
    (lambda d: instance(d).update(profile="3g.20gb"), "gpus[0].instances[0].profile", "no profile 3g.20gb"),
    (lambda d: instance(d).update(start=2), "gpus[0].instances[0].start", "cannot start at 2"),
    (lambda d: instance(d).update(start=4.5), "gpus[0].instances[0].start", "whole number"),
    (lambda d: instance(d).update(batch=0), "gpus[0].instances[0].batch", "at least 1"),
    (lambda d: instance(d).update(troughput=1), "gpus[0].instances[0].troughput", "unknown key"),
    (
        lambda d: d["gpus"][0]["instances"].append(instance(d)),
        "gpus[0].instances[1].start",
        "overlaps another instance",
    ),
]


@pytest.mark.parametrize(("change", "place", "what"), FAULTS)
def test_a_wrong_field_is_named_with_its_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], place: str, what: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(broken(change))
    with pytest.raises(InputError) as caught:
        read_plan(path)
    told = f"{caught.value}: {caught.value.hint}"
    assert f"{path}:1: {place}" in told
    assert what in told


def test_hints_name_the_nearest_key_and_say_to_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(broken(lambda d: instance(d).update(troughput=1)))
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert caught.value.hint == "did you mean throughput?"
    path.write_text(broken(lambda d: d.update(apiVersion="partita/v2", shape="new")))
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert "update partita" in (caught.value.hint or "")


@given(st.data())
def test_a_plan_cut_short_anywhere_is_refused_and_says_where(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    text = text_of(sample()).rstrip()
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(InputError, match=r"ends in the middle|is empty|not JSON") as caught:
        read_plan(path)
    assert str(path) in str(caught.value.where)


@pytest.mark.parametrize(
    "text",
    ["", "  \n", "{,}", "[]", "3", '"x"', "null", "[" * 100_000, '{"a": 1, "a": 2}', "1" * 5000, "\x00"],
)
def test_what_is_no_plan_is_refused_without_a_traceback(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError):
        read_plan(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_any_value_in_the_place_of_any_field_is_read_or_refused(tmp_path_factory: Any, value: object) -> None:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    for key in ("objective", "solver", "services", "gpus"):
        path.write_text(broken(lambda d, key=key: d.update({key: value})))  # type: ignore[misc]
        place = ""
        try:
            read_plan(path)
        except InputError as error:
            place = str(error)
        assert not place or key in place
