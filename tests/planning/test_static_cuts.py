"""The static cuts, by hand and on drawn problems."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.scenarios import mig_serving_24
from hypothesis import given
from tests.planning.deployments import assert_valid, cost
from tests.planning.problems import A30, A100, problem, problems

from partita.errors import InfeasibleError
from partita.planning.bound import lower_bound
from partita.planning.problem import Pool, Problem
from partita.planning.static_cuts import (
    MixPlanner,
    OnesPlanner,
    WholePlanner,
    mix_configs,
    ones_configs,
    whole_configs,
)

ALL = {"1g.5gb": 1.0, "2g.10gb": 2.5, "3g.20gb": 4.5, "4g.20gb": 5.0, "7g.40gb": 9.0}


def test_whole_gives_each_service_gpus_of_its_own() -> None:
    asked = problem([Pool("a100", A100)], {"a": (10.0, ALL), "b": (9.0, ALL)})
    configs = whole_configs(asked)
    assert_valid(asked, configs)
    assert cost(asked, configs) == 3.0


def test_ones_fills_gpus_service_after_service() -> None:
    asked = problem([Pool("a100", A100)], {"a": (10.0, ALL), "b": (4.0, ALL)})
    configs = ones_configs(asked)
    assert_valid(asked, configs)
    assert cost(asked, configs) == 2.0


def test_ones_takes_the_smallest_size_that_runs() -> None:
    asked = problem([Pool("a100", A100)], {"a": (7.0, ALL), "b": (7.5, {"2g.10gb": 2.5, "7g.40gb": 9.0})})
    configs = ones_configs(asked)
    assert_valid(asked, configs)
    assert {tuple(asked.sizes[k].profile for k, _ in c.assignment) for c in configs} == {
        ("1g.5gb",) * 7,
        ("2g.10gb",) * 3,
    }


def test_ones_keeps_the_limit_of_services_per_gpu() -> None:
    asked = problem([Pool("a100", A100)], {f"s{i}": (1.0, ALL) for i in range(6)}, max_services_per_gpu=2)
    assert cost(asked, ones_configs(asked)) == 3.0


def test_mix_gives_each_service_gpus_cut_4_2_1() -> None:
    asked = problem([Pool("a100", A100)], {"a": (17.0, ALL), "b": (1.0, ALL)})
    configs = mix_configs(asked)
    assert_valid(asked, configs)
    assert cost(asked, configs) == 3.0
    assert {tuple(asked.sizes[k].profile for k, _ in c.assignment) for c in configs} == {
        ("1g.5gb", "2g.10gb", "4g.20gb")
    }


def test_an_a30_is_whole_at_4g_and_mixed_2_1_1() -> None:
    runs = {"1g.6gb": 1.0, "2g.12gb": 2.0, "4g.24gb": 5.0}
    asked = problem([Pool("a30", A30)], {"s": (5.0, runs)})
    (whole,), (mix,) = whole_configs(asked), mix_configs(asked)
    assert [asked.sizes[k].profile for k, _ in whole.assignment] == ["4g.24gb"]
    assert [asked.sizes[k].profile for k, _ in mix.assignment] == ["1g.6gb", "1g.6gb", "2g.12gb"]


@pytest.mark.parametrize("configs_of", [whole_configs, ones_configs, mix_configs])
def test_the_next_pool_serves_what_the_first_cannot(configs_of) -> None:
    pools = [Pool("a100", A100, 1), Pool("a30", A30)]
    runs = {**ALL, "1g.6gb": 1.0, "2g.12gb": 2.0, "4g.24gb": 4.0}
    asked = problem(pools, {"s": (20.0, runs)})
    configs = configs_of(asked)
    assert_valid(asked, configs)
    assert {config.pool for config in configs} == {0, 1}


@pytest.mark.parametrize("planner", [WholePlanner(), OnesPlanner(), MixPlanner()])
def test_too_few_gpus_name_the_services_that_are_short(planner) -> None:
    asked = problem([Pool("a100", A100, 1)], {"small": (1.0, ALL), "big": (100.0, ALL)})
    with pytest.raises(InfeasibleError, match="cannot meet: big"):
        planner.plan(asked)


@pytest.mark.parametrize("configs_of", [whole_configs, ones_configs, mix_configs])
def test_replicas_and_spread_are_met(configs_of) -> None:
    asked = problem([Pool("a100", A100)], {"a": (1.0, ALL), "b": (1.0, ALL)})
    asked = asked.with_services((replace(asked.services[0], min_replicas=4, spread=2), asked.services[1]))
    assert_valid(asked, configs_of(asked))


@pytest.mark.parametrize("configs_of", [whole_configs, ones_configs, mix_configs])
@given(asked=problems())
def test_deployments_are_valid_or_refused(configs_of, asked: Problem) -> None:
    try:
        configs = configs_of(asked)
    except InfeasibleError as error:
        assert configs_of is not ones_configs
        assert "cannot meet" in error.what  # noqa: PT017 -- either outcome is right, and each is checked
    else:
        assert_valid(asked, configs)


@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize("planner", [WholePlanner(), OnesPlanner(), MixPlanner()])
def test_public_services_need_more_gpus_than_the_bound(planner) -> None:
    asked = mig_serving_24("normal", 0)
    objective = planner.plan(asked).objective
    assert objective.lower_bound == lower_bound(asked)
    assert 1.05 * objective.lower_bound < objective.value < 1.5 * objective.lower_bound
