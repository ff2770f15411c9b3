from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.transition.small import ONE, SECONDS, TWO, WEB, at, deployed

from partita.deadline import Deadline
from partita.mig.layout import fault
from partita.transition.nearest import Assignment, content, fit, nearest, rules
from partita.transition.transition import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.transition.nearest import Content, Wanted


if TYPE_CHECKING:
    Make = Callable[..., Request]


def kept(request: Request, wanted: dict[str, Wanted]) -> int:
    return sum(
        1
        for gpu in request.current.gpus
        for each in gpu.instances
        if each.replica and wanted[gpu.id].get(each.placement) == each.replica
    )


@given(seed=st.integers(0, 10**6))
def test_the_most_replicas_stay_of_all_ways_to_map_gpus(random_request: Make, seed: int) -> None:
    request = random_request(seed, gpus=(1, 3), model="a30-24gb", services=2)
    wanted = nearest(request)
    gpu_rules = rules("a30-24gb", ())
    there = [gpu for gpu in request.current.gpus if gpu.instances] + list(request.current.gpus)[-3:]
    contents = [content(gpu) for gpu in request.target.gpus if gpu.instances]
    most = 0
    for order in permutations(there, len(contents)):
        fits = [
            fit(gpu_rules, gpu, each, {i.placement: i.replica for i in gpu.instances})
            for gpu, each in zip(order, contents, strict=True)
        ]
        most = max(most, sum(found.kept for found in fits if found))
    assert kept(request, wanted) == most


@given(seed=st.integers(0, 10**6))
def test_what_is_wanted_is_legal_and_complete(random_request: Make, seed: int) -> None:
    request = random_request(seed, gpus=(1, 5))
    wanted = nearest(request)
    models = {gpu.id: gpu.model for gpu in request.current.gpus}
    for gpu_id, placements in wanted.items():
        assert fault(rules(models[gpu_id], ()), sorted(placements)) is None
    found = sorted(
        sorted((place.profile, str(replica)) for place, replica in each.items())
        for each in wanted.values()
        if each
    )
    assert found == sorted(
        sorted((profile, str(replica)) for profile, replica in content(gpu))
        for gpu in request.target.gpus
        if gpu.instances
    )


def as_for_many(request: Request, limit: float | None) -> dict[str, Wanted]:
    """Map GPUs as if they were thousands, of which not all pairs are looked at."""
    with patch.multiple("partita.transition.nearest", _ALL_PAIRS=0, _MOST_ASSIGNED=1):
        return nearest(request, deadline=None if limit is None else Deadline(limit))


@given(seed=st.integers(0, 10**6), in_place=st.booleans(), limit=st.sampled_from([None, 0.0, 60.0]))
def test_what_is_wanted_of_many_gpus_is_legal_and_complete(
    random_request: Make, seed: int, limit: float | None, *, in_place: bool
) -> None:
    request = replace(random_request(seed, gpus=(1, 6)), in_place=in_place)
    wanted = as_for_many(request, limit)
    models = {gpu.id: gpu.model for gpu in request.current.gpus}
    for gpu_id, placements in wanted.items():
        assert fault(rules(models[gpu_id], ()), sorted(placements)) is None
    asked = Counter(content(gpu) for gpu in request.target.gpus if gpu.instances)
    assert Counter(each for each in map(as_content, wanted.values()) if each) == asked
    assert kept(request, wanted) <= kept(request, nearest(request)) or in_place
    if in_place:
        there = {gpu.id for gpu in request.current.gpus}
        here = [gpu for gpu in request.target.gpus if gpu.instances and gpu.id in there]
        assert all(as_content(wanted[gpu.id]) == content(gpu) for gpu in here)


def as_content(placements: Wanted) -> Content:
    pairs = [(place.profile, replica) for place, replica in placements.items()]
    return tuple(sorted(pairs, key=lambda pair: (pair[0], str(pair[1]))))


def test_of_thousands_of_gpus_all_stay_that_the_target_has_under_other_names() -> None:
    services = [replace(WEB, service=f"s{number}") for number in range(900)]
    gpus = [{"2g.12gb@0": services[n % 900], "2g.12gb@2": services[n * 7 % 900]} for n in range(3_000)]
    more = [{"2g.12gb@0": services[n], "2g.12gb@2": replace(WEB, service="new")} for n in range(20)]
    request = Request(deployed(*gpus), deployed(*more, *gpus[20:][::-1]), {}, {}, SECONDS)
    assert kept(request, nearest(request)) == 6_000 - 20


def best(value: np.ndarray) -> float:
    rows, columns = value.shape
    return max(float(value[range(rows), list(p)].sum()) for p in permutations(range(columns), rows))


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 2))
def test_the_total_is_the_greatest_also_after_values_have_fallen(seed: int, rows: int, more: int) -> None:
    draw = np.random.default_rng(seed)
    value = draw.integers(-3, 8, (rows, rows + more)).astype(float)
    assignment = Assignment(value)
    for _ in range(4):
        columns = assignment.columns()
        assert len(set(columns)) == rows
        assert value[range(rows), columns].sum() == best(value)
        for row, column in enumerate(columns):
            if draw.random() < 0.6:
                by = float(draw.integers(0, 6))
                assignment.lower(row, int(column), by)
                value[row, column] -= by


def test_gpus_that_must_keep_their_places_are_put_onto_those_of_their_own_names() -> None:
    """Two GPUs that swap their services: a mapping may leave both where they run, unless places matter."""
    other = replace(WEB, service="api")
    now = deployed({"4g.24gb@0": WEB}, {"4g.24gb@0": other}, {})
    target = deployed({"4g.24gb@0": other}, {"4g.24gb@0": WEB})
    request = Request(now, target, {}, {}, SECONDS)
    assert nearest(request)[ONE] == {at("4g.24gb@0"): WEB}
    placed = nearest(replace(request, in_place=True))
    assert placed[ONE] == {at("4g.24gb@0"): other}
    assert placed[TWO] == {at("4g.24gb@0"): WEB}
    assert nearest(replace(request, in_place=True), random.Random(1)) == placed
