from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.errors import InputError
from partita.transition.deployment import Deployment
from partita.transition.document import read_transition, write_transition
from partita.transition.exchange_compact import ExchangeCompact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from partita.transition.transition import Request, Transition

    Make = Callable[..., Request]


def text_of(transition: Transition) -> str:
    stream = io.StringIO()
    write_transition(transition, stream)
    return stream.getvalue()


@given(seed=st.integers(0, 10**6))
def test_what_is_written_is_read_again(random_request: Make, seed: int, tmp_path_factory: Any) -> None:
    transition = ExchangeCompact().transition(random_request(seed, gpus=(1, 3)))
    path = tmp_path_factory.mktemp("transitions") / "transition.json"
    path.write_text(text_of(transition), encoding="utf-8")
    assert read_transition(path) == transition


def test_a_gpu_that_leaves_is_told_as_such(random_request: Make, tmp_path: Path) -> None:
    asked = random_request(1, gpus=(2, 3))
    unused = next(each.id for each in asked.target.gpus if not each.instances)
    gpus = tuple(replace(each, leaving=each.id == unused) for each in asked.current.gpus)
    transition = ExchangeCompact().transition(replace(asked, current=Deployment(gpus), extra_gpus=None))
    text = text_of(transition)
    assert [each["id"] for each in json.loads(text)["target"] if each.get("leaving")] == [unused]
    assert text.count("leaving") == 1
    path = tmp_path / "transition.json"
    path.write_text(text, encoding="utf-8")
    assert read_transition(path) == transition


def test_an_action_is_one_line_with_the_documented_fields(random_request: Make) -> None:
    transition = ExchangeCompact().transition(random_request(1))
    data = json.loads(text_of(transition))
    assert {"apiVersion", "kind", "algorithm", "makespan", "services", "actions", "target"} <= data.keys()
    assert {"id", "kind", "gpu", "instance", "after", "seconds"} <= data["actions"][0].keys()
    lines = text_of(transition).splitlines()
    assert sum('"after"' in line for line in lines) == len(transition.actions)


BREAKS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "kind": (lambda d: d.update(kind="Plan"), "must be 'Transition', not 'Plan'"),
    "version": (lambda d: d.update(apiVersion="partita/v9"), "newer than this partita"),
    "no kind": (lambda d: d.pop("kind"), "kind is missing"),
    "unknown key": (lambda d: d.update(makespam=1), "did you mean makespan"),
    "action kind": (lambda d: d["actions"][0].update(kind="start"), "must be 'create_instance'"),
    "instance": (lambda d: d["actions"][0].update(instance="3g"), "is not a placement"),
    "after": (lambda d: d["actions"][0].update(after=[1]), "after[0]: must be text, not 1"),
    "dangling": (lambda d: d["actions"][0].update(after=["zz"]), "which is not an action"),
    "circle": (lambda d: d["actions"][0].update(after=[d["actions"][0]["id"]]), "wait for each other"),
    "seconds": (lambda d: d["actions"][0].update(seconds=-1), "at least 0"),
    "service": (lambda d: [a.pop("batch", None) for a in d["actions"]], "batch is missing"),
    "replica": (lambda d: d["actions"][0].update(service="a", model="a", batch=1, processes=1, throughput=1,
                                                   latency_ms=1, kind="create_instance"), "name a service"),
    "floor": (lambda d: d["services"][0].update(floor="x"), "must be a number, not 'x'"),
    "gpu": (lambda d: d["target"][0].pop("model"), "model is missing"),
    "dots as a service": (lambda d: d["services"][0].update(name=".."), "services[0].name: must be more than dots"),
    "dots as a gpu": (lambda d: d["target"][0].update(id="."), "target[0].id: must be more than dots"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_every_break_is_named(random_request: Make, name: str, tmp_path: Path) -> None:
    change, words = BREAKS[name]
    data = json.loads(text_of(ExchangeCompact().transition(random_request(1))))
    change(data)
    path = tmp_path / "transition.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_transition(path)
    assert words in f"{caught.value} {caught.value.hint}"
    assert str(path) in str(caught.value)
