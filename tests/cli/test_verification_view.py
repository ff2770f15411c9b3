from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from partita.cli.verification_view import LossesTable, OutcomeTable, refuse_broken
from partita.errors import PartitaError
from partita.verification.losses import LossesOutcome, LossOutcome
from partita.verification.outcome import PlanOutcome, ServiceOutcome, Share, Trial, Verdict


def service(name: str = "search", share: float = 0.98, promised: float | None = 0.95) -> ServiceOutcome:
    found = Share(share, share - 0.01, min(1.0, share + 0.01))
    return ServiceOutcome(
        name, 1234.5, 1234.5, 40.0, promised, found, found.verdict(promised), 20_000, 0.01, (8.25, 31.5, None),
        0.62, 4,
    )  # fmt: skip


def printed(shown: OutcomeTable | LossesTable, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(shown)
    return out.getvalue()


def test_the_table_fits_the_width_and_says_more_on_a_wide_terminal() -> None:
    outcome = PlanOutcome(Trial(), (service("a-service-with-a-long-name"), service(promised=None)))
    narrow, wide = printed(OutcomeTable(outcome)), printed(OutcomeTable(outcome), 160)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "p95" not in narrow
    assert "p95" in wide
    assert "refused %" in wide
    assert "1 of 1 service keeps its promise" in narrow
    assert "98.00 ±1.00" in narrow


def test_those_in_doubt_come_first_where_not_all_are_shown() -> None:
    many = tuple(service(f"s{n}") for n in range(60))
    outcome = PlanOutcome(Trial(), (*many, service("bad", 0.5), service("open", 0.95)))
    shown = printed(OutcomeTable(outcome), 160)
    assert shown.index("bad") < shown.index("s0")
    assert "not kept: bad; undecided: open" in shown
    assert "and 22 more services" in shown


def test_what_was_interrupted_says_so() -> None:
    some = printed(OutcomeTable(PlanOutcome(Trial(), (service(),), stopped=True)))
    assert "interrupted: simulated 1 service" in some
    none = printed(OutcomeTable(PlanOutcome(Trial(), (), stopped=True)))
    assert none.strip() == "interrupted: simulated 0 services"


def test_losses_show_the_worst_service_and_are_told_when_a_promise_breaks() -> None:
    bad = LossOutcome(("node-0/gpu-1", "node-0/gpu-2"), (service(), service("bad", 0.4)))
    losses = LossesOutcome("gpu", (LossOutcome(("node-0/gpu-0",), (service(),)), bad))
    shown = printed(LossesTable(losses))
    assert "1 of 3 GPUs can be lost with every promise kept" in shown
    assert shown.index("node-0/gpu-1..2") < shown.index("node-0/gpu-0")
    kept = PlanOutcome(Trial(), (service(),))
    with pytest.raises(PartitaError, match="bad does not keep its promise when a GPU is lost") as told:
        refuse_broken(kept, losses, None)
    assert "write `survive: gpu` for these services" in str(told.value.hint)
    with pytest.raises(PartitaError, match=r"search does not keep its promise$"):
        refuse_broken(replace(kept, services=(service(share=0.5),)), None, None)
    refuse_broken(kept, None, None)
    assert kept.services[0].verdict is Verdict.KEPT
