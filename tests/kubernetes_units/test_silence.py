"""Which nodes count as gone, as time goes by and nodes fall silent and answer again."""

from __future__ import annotations

import pytest

from partita.kubernetes.silence import NodeSilence


class Nodes:
    """Nodes on a clock of their own."""

    def __init__(self, count: int, timeout_s: float = 30.0) -> None:
        self.away: dict[str, float | None] = {f"n{index}": None for index in range(count)}
        self.silence = NodeSilence(timeout_s)
        self.now = 1000.0
        self.look()

    def look(self, after_s: float = 0.0) -> NodeSilence:
        self.now += after_s
        self.silence.look(self.away, self.now)
        return self.silence

    def fall_silent(self, *indices: int, for_s: float = 0.0) -> None:
        self.away |= dict.fromkeys((f"n{index}" for index in indices), for_s)
        self.look()

    def answer(self, *indices: int) -> None:
        self.away |= dict.fromkeys(f"n{index}" for index in indices)
        self.look()


def test_a_node_that_is_silent_for_long_is_lost_and_comes_back():
    nodes = Nodes(3)
    nodes.fall_silent(1)
    assert (set(nodes.silence.silent), set(nodes.silence.lost)) == ({"n1"}, set())
    assert not nodes.look(29.9).lost
    assert nodes.look(0.2).lost == {"n1"}
    assert not nodes.silence.silent
    nodes.answer(1)
    assert not nodes.silence.lost
    nodes.fall_silent(1)
    assert nodes.silence.silent == {"n1"}


def test_a_node_that_answers_in_time_begins_anew():
    nodes = Nodes(3)
    for _ in range(5):
        nodes.fall_silent(1)
        assert not nodes.look(29.0).lost
        nodes.answer(1)


def test_a_node_that_is_deleted_is_neither_silent_nor_lost():
    nodes = Nodes(3)
    nodes.fall_silent(1)
    del nodes.away["n1"]
    assert not nodes.look(100.0).lost
    assert not nodes.silence.silent


@pytest.mark.parametrize("count", [1, 2, 3, 8, 1000])
def test_of_nodes_that_are_silent_together_none_is_lost_however_long(count):
    nodes = Nodes(count)
    nodes.fall_silent(*range(count))
    found = nodes.look(86400.0)
    assert (found.most, len(found.silent), set(found.lost)) == (True, count, set())


@pytest.mark.parametrize("order", [range(3), (2, 0, 1)])
def test_nodes_that_fall_silent_and_answer_one_after_another_are_one_outage(order):
    nodes = Nodes(3)
    for index in order:
        nodes.fall_silent(index)
        assert not nodes.look(0.5).lost
    assert not nodes.look(600.0).lost
    for index in order:
        nodes.answer(index)
        assert not nodes.look(5.0).lost
    assert not nodes.silence.silent


def test_a_node_that_stays_away_after_an_outage_is_lost_a_while_after_it():
    nodes = Nodes(3)
    nodes.fall_silent(0, 1, 2)
    nodes.look(600.0)
    nodes.answer(0, 1)
    assert not nodes.look(29.0).lost
    assert nodes.look(2.0).lost == {"n2"}


@pytest.mark.parametrize(
    ("count", "away", "most"),
    [(4, 2, False), (4, 3, True), (3, 2, False), (2, 1, False), (100, 54, False), (100, 55, True)],
)
def test_most_is_what_kubernetes_takes_for_a_disruption(count, away, most):
    nodes = Nodes(count)
    nodes.fall_silent(*range(away))
    found = nodes.look(31.0)
    assert found.most is most
    assert len(found.lost) == (0 if most else away)


def test_nodes_that_were_lost_before_stay_lost_through_an_outage_and_do_not_count():
    nodes = Nodes(8)
    nodes.fall_silent(0, 1)
    assert nodes.look(31.0).lost == {"n0", "n1"}
    nodes.fall_silent(*range(8))
    assert (nodes.silence.most, set(nodes.silence.lost)) == (True, {"n0", "n1"})
    nodes.answer(*range(2, 8))
    nodes.fall_silent(2, 3)  # of six
    assert nodes.look(31.0).lost == {"n0", "n1", "n2", "n3"}


def test_a_node_that_was_silent_long_before_the_first_look_is_lost_at_once():
    nodes = Nodes(3)
    nodes.away = {"n0": None, "n1": None, "n2": 86400.0}
    assert nodes.look().lost == {"n2"}
    fresh = NodeSilence(30.0)
    fresh.look({"n0": 3.0, "n1": 3.0, "n2": 86400.0}, 5.0)
    assert (fresh.most, set(fresh.lost)) == (True, set())
