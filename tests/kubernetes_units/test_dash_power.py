"""Energy of a cluster by the power model, against the sum over single seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.dash.energy import energy
from partita.drive.driver import Identity, ObservedGpu, ObservedInstance, ObservedReplica
from partita.drive.simulated.cluster import watts
from partita.jobs.energy import OwnerKind
from partita.kubernetes.dash_power import PowerHistory
from partita.mig.gpu import IDLE_W
from partita.mig.layout import Placement
from partita.transition.deployment import Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACES = (Placement(0, "3g.40gb"), Placement(4, "3g.40gb"))
T0 = 1_700_000_000.0
Uses = tuple[str, str]


def gpu(uses: Uses, *, lost: bool = False, number: int = 0) -> ObservedGpu:
    """Return a GPU of two instances, each free (empty), a job's (`job`) or a service's."""
    found = []
    for place, use in zip(PLACES, uses, strict=True):
        replica = None
        if use not in ("", "job"):
            replica = ObservedReplica(Replica(use, "resnet50", 8, 1, 100.0, 10.0), ready=True)
        found.append(ObservedInstance(place, Identity("GPU-0", None, None, "uid"), True, replica))
    return ObservedGpu(
        f"node-0/gpu-{number}", f"GPU-{number}", "a100-80gb", mig=True, lost=lost, instances=tuple(found)
    )


def jobs(uses: Uses, number: int = 0) -> dict[tuple[str, str], str]:
    return {
        (f"node-0/gpu-{number}", str(place)): "shop.train"
        for place, use in zip(PLACES, uses, strict=True)
        if use == "job"
    }


@given(
    st.lists(
        st.tuples(st.tuples(*[st.sampled_from(["", "job", "search", "chat"])] * 2), st.integers(0, 5)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 20),
)
def test_spans_have_the_energy_of_their_seconds(steps: Sequence[tuple[Uses, int]], since: int) -> None:
    history, at, whole = PowerHistory(), 0, 0.0
    for uses, seconds in steps:
        history.note(T0 + at, {"a": [gpu(uses)]}, jobs(uses))
        drawn = watts(gpu(uses), {(name, Placement.parse(place).start) for name, place in jobs(uses)})
        whole += sum(drawn for second in range(at, at + seconds) if second >= since)
        at += seconds
    found = history.between(T0 + since, T0 + at)
    assert sum(each.energy.joules or 0.0 for each in found) == pytest.approx(whole)
    mine = sum(
        each.energy.active_j + each.energy.idle_j for each in found if each.owner.kind is OwnerKind.JOB
    )
    assert (mine > 0.0) == any(
        "job" in uses
        and sum(seconds for _, seconds in steps[: index + 1]) > max(since, sum(s for _, s in steps[:index]))
        for index, (uses, _) in enumerate(steps)
    )


def test_idle_is_a_row_and_gpus_have_their_price() -> None:
    history = PowerHistory()
    first, second = gpu(("search", "job")), gpu(("", ""), number=1)
    changed = history.note(T0, {"a": [first], "b": [second]}, jobs(("search", "job")))
    assert changed == {"node-0/gpu-0": pytest.approx(400.0, rel=0.3), "node-0/gpu-1": IDLE_W}
    assert history.note(T0 + 1800, {"a": [first], "b": [second]}, jobs(("search", "job"))) == {}
    entries = history.between(T0, T0 + 3600)
    found = energy(entries, history.between(T0 + 3500, T0 + 3600), history.kinds(), {"a": 2.0}, T0)
    rows = {row.kind: row for row in found.rows}
    assert [rows[kind].name for kind in ("job", "service", "idle")] == ["shop.train", "search", ""]
    assert sum(row.seconds for row in found.rows) == pytest.approx(7200.0)
    assert rows["job"].cost == pytest.approx(2.0 * rows["job"].seconds / 3600)
    assert rows["idle"].cost is None  # a GPU without a price is in it
    assert found.watts == pytest.approx(sum(value or 0.0 for value in changed.values()))


def test_what_is_not_known_is_not_measurable() -> None:
    history = PowerHistory()
    uses: Uses = ("search", "job")
    assert history.note(T0, {"a": [gpu(uses, lost=True)]}, jobs(uses)) == {"node-0/gpu-0": None}
    found = energy(history.between(T0, T0 + 60), (), history.kinds(), {"a": 2.0}, T0)
    assert {(row.kind, row.joules, row.cost) for row in found.rows} == {
        ("job", None, None),
        ("service", None, None),
        ("idle", None, None),
    }


def test_a_gpu_that_goes_draws_no_more_and_the_past_stays() -> None:
    history = PowerHistory()
    assert [history.began] == [None]
    history.note(T0, {"a": [gpu(("", ""))]}, {})
    history.note(T0 + 10, {}, {})
    history.note(T0 + 20, {"a": [replace(gpu(("", "")), uuid="GPU-9")]}, {})
    assert history.began == T0
    assert sum(each.energy.seconds for each in history.between(T0, T0 + 25)) == 15.0
    assert sum(each.energy.seconds for each in history.between(T0, T0 + 25, "node-0/gpu-0")) == 15.0
    assert not history.between(T0, T0 + 25, "node-0/gpu-1")
    history.note(T0 + 32 * 86_400, {}, {})
    assert history.began == T0 + 10  # what is older than a month is forgotten
