"""Packing keeps every instance, and mixes services only where it must."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from tests.planning.problems import A100, problem, problems

from partita.planning.assemble import pack
from partita.planning.compact import Counts
from partita.planning.exact import ExactPlanner
from partita.planning.problem import Pool, Problem


@given(problems())
def test_every_instance_of_the_counts_has_a_gpu(asked: Problem) -> None:
    counts, _ = ExactPlanner().counts(asked)
    configs = pack(asked, counts)
    placed: Counter[tuple[int, int]] = Counter()
    for config, n in configs.items():
        for slot in config.assignment:
            placed[slot] += n
    wanted = {(k, s): int(n) for (s, k), n in np.ndenumerate(counts.instances) if n}
    profile = [size.profile for size in asked.sizes]
    assert sum(placed.values()) == sum(wanted.values())
    assert Counter({(profile[k], s): 0 for k, s in placed}) == Counter(
        {(profile[k], s): 0 for k, s in wanted}
    )


def test_services_that_fill_gpus_share_none() -> None:
    asked = problem([Pool("a100", A100)], {"a": (14.0, {"1g.5gb": 1.0}), "b": (6.0, {"2g.10gb": 1.0})})
    counts = Counts(
        np.array(
            [2 if c.counts == (7, 0, 0, 0, 0) else 2 * (c.counts == (1, 3, 0, 0, 0)) for c in asked.cuts]
        ),
        np.array([[14, 0, 0, 0, 0], [0, 6, 0, 0, 0]]),
    )
    assert all(len({s for _, s in config.assignment}) == 1 for config in pack(asked, counts))


def test_exchanges_bring_scattered_instances_together() -> None:
    runs = {name: (4.0, {"1g.5gb": 1.0}) for name in "abcdefg"}
    asked = problem([Pool("a100", A100)], runs)
    counts = Counts(
        np.array([4 * (c.counts == (7, 0, 0, 0, 0)) for c in asked.cuts]),
        np.array([[4, 0, 0, 0, 0]] * 7),
    )
    mixed = sum(n * len({s for _, s in c.assignment}) for c, n in pack(asked, counts).items())
    assert mixed <= 10
