from __future__ import annotations

import numpy as np
import pytest
from tests.serve.dispatching.rehearsal import hello
from tests.serve.problems import sublinear

from partita.serve.dispatching.fleet import Fleet, fluid_prices, price_question
from partita.serve.fluid import second_prices

FOUND = sublinear()
COUNTS = np.array([3, 2, 1])
QUERIES = dict.fromkeys(range(1, 9), 100)


def fleet() -> Fleet:
    made = Fleet(FOUND.deadline)
    for row, (profile, count) in enumerate(zip(FOUND.profiles, COUNTS.tolist(), strict=True)):
        table = dict(enumerate(FOUND.latency[row].tolist(), 1))
        for gpu in range(count):
            made.join(hello(profile, table, gpu=gpu), {}, 0.0)
    return made


def test_prices_are_those_of_the_fluid_model() -> None:
    made = fleet()
    asked = price_question(made, QUERIES, FOUND.deadline, FOUND.quantile)
    assert asked is not None
    found = fluid_prices(asked)
    by_profile = {key[1]: price for key, price in found.items()}
    assert [by_profile[each] for each in FOUND.profiles] == pytest.approx(
        second_prices(FOUND, COUNTS).tolist()
    )
    made.set_prices(found)
    assert {group.key[1]: group.price for group in made.groups} == by_profile


def test_prices_are_asked_for_anew_when_workers_or_batch_sizes_change() -> None:
    made = fleet()
    asked = price_question(made, QUERIES, FOUND.deadline, FOUND.quantile)
    assert asked is not None
    assert asked.differs(None)
    again = price_question(made, {**QUERIES, 1: 150}, FOUND.deadline, FOUND.quantile)
    assert again is not None
    assert not again.differs(asked)
    other = price_question(made, {1: 100}, FOUND.deadline, FOUND.quantile)
    assert other is not None
    assert other.differs(asked)
    made.join(hello(FOUND.profiles[0], {1: 1.0}, batch=8, gpu=9), {}, 0.0)
    more = price_question(made, QUERIES, FOUND.deadline, FOUND.quantile)
    assert more is not None
    assert more.differs(asked)


def test_nothing_is_asked_where_there_is_nothing_to_choose() -> None:
    made = Fleet(4.0)
    assert price_question(made, QUERIES, 4.0, 0.95) is None
    made.join(hello(), {}, 0.0)
    assert price_question(made, QUERIES, 4.0, 0.95) is None
    assert price_question(fleet(), {}, 4.0, 0.95) is None
