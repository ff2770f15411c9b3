"""Queries of more rows than a worker takes: asked in parts, answered whole or not at all."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.dispatching.rehearsal import ROWS, hello

from partita.serve.dispatching.query import (
    PARTS_AT_ONCE,
    PendingQuery,
    QueryFailedError,
    QueryOutcome,
    QueryRefusedError,
    RefusalReason,
)
from partita.serve.gateway.gateway import Gateway
from partita.serve.gateway.route import Route, ServedService
from partita.serve.gateway.statistics import ServiceCounters
from partita.serve.routers import live_router
from partita.serve.tensors import (
    APART,
    Answer,
    Batching,
    Query,
    Tensor,
    TensorSpec,
    cut,
    joined,
    pack_texts,
    split_off,
    stacked,
)
from partita.serve.worker.batching import decode_texts

if TYPE_CHECKING:
    from pathlib import Path

    from partita.serve.dispatching.query import AnswerReceiver, QueryEnd, Worker
    from partita.serve.gateway.link import Link
    from partita.serve.worker.wire import Hello


INPUTS = (TensorSpec("X", "UINT8", (-1, 2)), TensorSpec("T", "BYTES", (-1, 1)))


class Asker:
    """Who asks, and what became of it; hears it once at most."""

    def __init__(self) -> None:
        self.heard: list[Answer | BaseException] = []

    def done(self) -> bool:
        return bool(self.heard)

    def set_result(self, result: Answer) -> None:
        self.heard.append(result)

    def set_exception(self, exception: BaseException) -> None:
        self.heard.append(exception)

    @property
    def answer(self) -> Answer:
        (heard,) = self.heard
        assert isinstance(heard, Answer), heard
        return heard

    @property
    def error(self) -> BaseException:
        (heard,) = self.heard
        assert isinstance(heard, BaseException)
        return heard


@dataclass(eq=False)
class FakeLink:
    """A worker that answers when it is told to, each row with the same text and its number plus one."""

    name: str
    gateway: Gateway
    worker: Worker | None = None
    service: str = ""
    remote: None = None
    turns: None = None
    runs: dict[int, tuple[Query, ...]] = field(default_factory=dict)

    def run(self, number: int, queries: list[Query]) -> None:
        self.runs[number] = tuple(queries)

    def drained(self) -> None:
        pass

    def answer(self, answers: list[Answer] | None = None) -> None:
        number = next(iter(self.runs))
        queries = self.runs.pop(number)
        made = answers or [Answer(plus_one(query)) for query in queries]
        assert self.gateway.said_done(cast("Link", self), number, made, 0.001, 0.0)


def plus_one(query: Query) -> tuple[Tensor, ...]:
    numbers, texts = query.inputs
    return (
        Tensor("Y", "UINT8", numbers.shape, bytes((each + 1) % 256 for each in numbers.data)),
        Tensor("U", "BYTES", texts.shape, bytes(texts.data)),
    )


def asking(rows: int, first: int = 0) -> Query:
    data = bytes((first + each) % 256 for each in range(rows) for _ in range(2))
    texts = pack_texts(str(first + each).encode() for each in range(rows))
    return Query((Tensor("X", "UINT8", (rows, 2), data), Tensor("T", "BYTES", (rows, 1), texts)))


class World:
    """A gateway without sockets, and its workers."""

    def __init__(
        self,
        folder: Path,
        *batches: int,
        deadline_s: float = 60.0,
        overhead_s: float = 0.0,
        router: str = "late-binding",
    ) -> None:
        self.ended: list[QueryEnd] = []
        service = ServedService("one", "m", deadline_s, overhead_s=overhead_s)
        self.gateway = Gateway([service], folder, router=router)
        route = self.gateway._routes["one"]
        finish = route._finish

        def finished(end: QueryEnd, now: float) -> None:
            self.ended.append(end)
            finish(end, now)

        vars(route)["_finish"] = finished
        self.links: list[FakeLink] = []
        for batch in batches:
            self.join(batch)

    def join(
        self, batch: int, batching: Batching = ROWS, seconds: float = 0.001, *, listed: bool = False
    ) -> FakeLink:
        said: Hello = hello(
            seconds={1: seconds, batch: seconds}, batch=batch, gpu=len(self.links), batching=batching
        )
        if listed:
            said = said.replace(inputs=INPUTS)
        link = FakeLink(f"worker-{len(self.links)}", self.gateway)
        assert self.gateway.said_hello(cast("Link", link), said)
        self.links.append(link)
        return link

    def ask(self, query: Query, deadline_s: float | None = None) -> tuple[Asker, PendingQuery]:
        asker = Asker()
        return asker, self.gateway.ask("one", query, deadline_s, asker)

    def lose(self, link: FakeLink) -> None:
        self.links.remove(link)
        self.gateway.lost(cast("Link", link), "")

    def finish(self, rng: random.Random | None = None) -> list[int]:
        """Answer all that is asked, in any order; return the rows of each batch."""
        rows = []
        while busy := [link for link in self.links if link.runs]:
            link = (rng or random).choice(busy)
            rows.append(sum(query.batch for query in next(iter(link.runs.values()))))
            assert rows[-1] <= (link.worker.hello.batch if link.worker else 0) or len(busy) > 99
            link.answer()
        return rows

    @property
    def left(self) -> int:
        (service,) = self.gateway.snapshot().services
        return service.waiting


def plain(tensors: tuple[Tensor, ...]) -> list[tuple[str, tuple[int, ...], bytes]]:
    return [(each.name, each.shape, bytes(each.data)) for each in tensors]


@given(st.data())
def test_whatever_is_asked_of_whichever_workers_everyone_gets_their_own(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    router = data.draw(st.sampled_from(["late-binding", "fifs", "price", "elsa"]))
    batches = data.draw(st.lists(st.sampled_from([1, 2, 5, 8]), min_size=1, max_size=3))
    world = World(tmp_path_factory.getbasetemp(), *batches, router=router)
    queries = [
        asking(rows, 7 * at) for at, rows in enumerate(data.draw(st.lists(st.integers(0, 40), max_size=6)))
    ]
    askers = [world.ask(query)[0] for query in queries]
    world.finish(random.Random(data.draw(st.integers(0, 99))))
    assert [plain(each.answer.outputs) for each in askers] == [plain(plus_one(query)) for query in queries]
    seen = world.gateway.statistics("one")
    assert (seen.success.count, seen.items) == (len(queries), sum(max(1, query.batch) for query in queries))
    assert [(each.outcome, each.query.worker is not None) for each in world.ended] == [
        (QueryOutcome.ANSWERED, True)
    ] * len(queries)
    assert world.left == 0


def test_a_large_query_is_counted_once_and_its_batches_each(tmp_path: Path) -> None:
    world = World(tmp_path, 8, 8)
    asker, _ = world.ask(asking(20))
    assert sorted(world.finish()) == [4, 8, 8]
    assert asker.answer.outputs[0].shape == (20, 2)
    seen = world.gateway.statistics("one")
    assert (seen.success.count, seen.items, seen.executions, seen.in_time) == (1, 20, 3, 1)
    assert seen.queue.seconds + seen.compute.seconds == pytest.approx(seen.success.seconds, abs=1e-6)
    (ended,) = world.ended
    assert (ended.query.batch, ended.outcome) == (20, QueryOutcome.ANSWERED)


@pytest.mark.parametrize("listed", [True, False])
def test_the_rest_of_a_large_query_is_joined_with_what_else_waits(tmp_path: Path, listed: bool) -> None:  # noqa: FBT001 -- by name
    world = World(tmp_path)
    world.join(8, listed=listed)
    askers = [world.ask(asking(rows))[0] for rows in (8, 11, 5)]
    assert world.finish() == [8, 8, 8]
    for asker, rows in zip(askers, (8, 11, 5), strict=True):
        assert plain(asker.answer.outputs) == plain(plus_one(asking(rows)))


def test_few_parts_of_a_query_are_under_way_at_a_time(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    asker, _ = world.ask(asking(300))
    most = 0
    while world.links[0].runs:
        most = max(most, world.left + 1)
        world.links[0].answer()
    assert most == PARTS_AT_ONCE
    assert plain(asker.answer.outputs) == plain(plus_one(asking(300)))


def test_a_part_that_is_to_blame_ends_the_whole_and_the_other_parts(tmp_path: Path) -> None:
    world = World(tmp_path, 2, 2)
    asker, _ = world.ask(asking(20))
    world.links[1].answer([Answer(error="it is unlucky", invalid=True)])
    assert (asker.answer.error, asker.answer.invalid) == ("it is unlucky", True)
    assert world.left == 0
    world.finish()  # what still runs is of no use
    assert [each.outcome for each in world.ended] == [QueryOutcome.INVALID]
    assert world.gateway.statistics("one").success.count == 0


def test_a_part_that_a_worker_fails_is_tried_again_and_then_fails_the_whole(tmp_path: Path) -> None:
    world = World(tmp_path, 4, 4)
    first, _ = world.ask(asking(8))
    world.links[0].answer([Answer(error="out of luck")])
    world.finish()
    assert plain(first.answer.outputs) == plain(plus_one(asking(8)))
    second, _ = world.ask(asking(8))
    for _ in range(2):
        busy = [link for link in world.links if link.runs]
        busy[0].answer([Answer(error="out of luck")])
    for link in world.links:
        while link.runs:
            link.answer([Answer(error="out of luck")])
    assert isinstance(second.error, QueryFailedError)
    assert world.left == 0
    assert [each.outcome for each in world.ended] == [QueryOutcome.ANSWERED, QueryOutcome.FAILED]


def test_parts_of_a_killed_worker_run_elsewhere(tmp_path: Path) -> None:
    world = World(tmp_path, 4, 4)
    asker, _ = world.ask(asking(30))
    world.lose(world.links[0])
    world.finish()
    assert plain(asker.answer.outputs) == plain(plus_one(asking(30)))
    assert world.gateway.statistics("one").retried == 1


def test_a_client_that_leaves_takes_all_parts_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    _, waiting = world.ask(asking(40))
    assert world.left > 0
    world.gateway.forget("one", waiting)
    world.gateway.forget("one", waiting)
    assert world.left == 0
    world.finish()
    assert [each.outcome for each in world.ended] == [QueryOutcome.CANCELLED]
    assert world.gateway.statistics("one").cancelled == 1


def test_what_all_workers_together_cannot_answer_in_time_is_refused_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(2):
        world.join(4, seconds=0.1)
    asker, _ = world.ask(asking(40), deadline_s=0.4)  # ten batches on two workers: half a second
    assert isinstance(asker.error, QueryRefusedError)
    assert asker.error.reason is RefusalReason.LATE
    assert not any(link.runs for link in world.links)
    asker, _ = world.ask(asking(24), deadline_s=0.4)
    world.finish()
    assert plain(asker.answer.outputs) == plain(plus_one(asking(24)))


@pytest.mark.parametrize("router", ["late-binding", "fifs", "price", "elsa"])
def test_a_replan_to_smaller_batches_breaks_nobody(tmp_path: Path, router: str) -> None:
    world = World(tmp_path, 128, router=router)
    running, _ = world.ask(asking(100))
    waiting, _ = world.ask(asking(100, 50))
    large = world.links[0]
    world.join(8)
    world.gateway._routes["one"].drain(large.worker)  # type: ignore[arg-type]  # as `said_draining` does, later
    later, _ = world.ask(asking(100, 9))
    large.answer()
    world.lose(large)
    world.finish()
    for asker, first in ((running, 0), (waiting, 50), (later, 9)):
        assert plain(asker.answer.outputs) == plain(plus_one(asking(100, first)))
    assert {each.outcome for each in world.ended} == {QueryOutcome.ANSWERED}


def test_a_query_that_lost_its_worker_is_asked_in_parts_of_those_that_are_left(tmp_path: Path) -> None:
    world = World(tmp_path, 128, 8)
    asker, _ = world.ask(asking(100))
    world.lose(world.links[0])
    world.finish()
    assert plain(asker.answer.outputs) == plain(plus_one(asking(100)))


def test_what_runs_on_a_silent_worker_is_not_asked_in_parts_too(tmp_path: Path) -> None:
    world = World(tmp_path, 128, 128, 8)
    first, second = world.ask(asking(100))[0], world.ask(asking(100, 50))[0]
    silent, lost, _ = world.links
    assert silent.worker is not None
    world.gateway._routes["one"].silent(silent.worker)
    world.lose(lost)
    world.finish()
    for asker, begin in ((first, 0), (second, 50)):
        assert plain(asker.answer.outputs) == plain(plus_one(asking(100, begin)))
    assert [each.outcome for each in world.ended] == [QueryOutcome.ANSWERED] * 2


def test_without_workers_a_large_query_waits_for_those_that_are_awaited(tmp_path: Path) -> None:
    world = World(tmp_path, 8)
    route = world.gateway._routes["one"]
    world.lose(world.links[0])
    route.dispatcher.fleet.coming = ((0.0, 8),)
    asker, _ = world.ask(asking(20))
    world.join(8)
    world.finish()
    assert plain(asker.answer.outputs) == plain(plus_one(asking(20)))


def test_without_a_batch_dimension_a_query_runs_whole_and_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    link = world.join(8, APART)
    askers = [world.ask(asking(20, first))[0] for first in range(3)]
    while link.runs:
        ((query,),) = link.runs.values()
        assert query.batch == 20
        link.answer()
    assert [plain(each.answer.outputs) for each in askers] == [
        plain(plus_one(asking(20, each))) for each in range(3)
    ]
    assert world.gateway.statistics("one").items == 3


def test_parts_are_not_mixed_with_what_turns_out_to_have_no_batch(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    asker, _ = world.ask(asking(20))
    world.join(4, APART)
    assert isinstance(asker.error, QueryRefusedError)
    assert world.left == 0
    world.finish()
    whole, _ = world.ask(asking(20))
    while any(link.runs for link in world.links):
        next(link for link in world.links if link.runs).answer()
    assert plain(whole.answer.outputs) == plain(plus_one(asking(20)))


def test_outputs_that_do_not_fit_together_fail_the_whole(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    asker, _ = world.ask(asking(6))
    for width in (2, 3):
        world.links[0].answer([Answer((Tensor("Y", "UINT8", (1, width), bytes(width)),))])
    assert isinstance(asker.error, QueryFailedError)
    assert "in parts" in str(asker.error)


def test_a_query_under_way_is_finished_when_the_gateway_drains_and_no_more_begins(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    asker, _ = world.ask(asking(200))

    async def body() -> None:
        draining = asyncio.create_task(world.gateway.drain(20.0))
        await asyncio.sleep(0)
        late, _ = world.ask(asking(200))
        assert isinstance(late.error, QueryRefusedError)
        assert late.error.reason is RefusalReason.DRAINING
        world.finish()
        await draining

    asyncio.run(body())
    assert plain(asker.answer.outputs) == plain(plus_one(asking(200)))


def test_it_is_told_once_why_queries_are_not_joined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "partita.serve")
    world = World(tmp_path)
    why = Batching(why="its server says max_batch_size 0")
    for _ in range(2):
        world.join(8, why)
    assert [each.getMessage() for each in caplog.records] == [
        "one: queries run one by one, while the plan counts on batches of 8: its server says max_batch_size 0"
    ]


def test_the_owners_limit_is_that_of_all_workers(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.join(8, Batching(rows=True, most=64, why="it is declared"))
    model = world.gateway.model("one")
    assert model is not None
    assert model.max_batch == 64
    world.join(128, Batching(rows=True, most=32, why="it is declared"))
    model = world.gateway.model("one")
    assert model is not None
    assert model.max_batch == 32


@given(st.integers(0, 30), st.integers(1, 9))
def test_cut_and_stacked_again_a_query_is_what_it_was(rows: int, most: int) -> None:
    query = asking(rows)
    parts = cut(query, most)
    assert all(each.batch <= most for each in parts)
    assert plain(stacked([each.inputs for each in parts])) == plain(query.inputs)
    assert plain(joined(parts).inputs) == plain(query.inputs)
    first, rest = split_off(query, most)
    assert plain(first.inputs) == plain(parts[0].inputs)
    assert (rest is None) == (rows <= most)
    assert decode_texts(first.inputs[1].data) == [str(each).encode() for each in range(min(rows, most))]


def test_what_the_way_to_the_gateway_takes_of_a_deadline_is_not_for_waiting_and_running(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, deadline_s=60.0, overhead_s=20.0)
    world.join(1, seconds=30.0)
    asker, query = world.ask(asking(1))
    assert query.due - query.arrived == pytest.approx(40.0)
    world.finish()
    assert asker.answer.outputs[0].shape == (1, 2)
    late, _ = world.ask(asking(1), deadline_s=45.0)
    assert isinstance(late.error, QueryRefusedError)
    assert late.error.reason is RefusalReason.LATE
    nothing, _ = world.ask(asking(1), deadline_s=5.0)
    assert isinstance(nothing.error, QueryRefusedError)
    assert world.gateway.statistics("one").in_time == 1


def test_an_answer_within_the_whole_deadline_counts_as_in_time() -> None:
    counters = ServiceCounters(0.1)
    for took in (0.05, 0.095, 0.105):
        counters.answered(PendingQuery(1, 100.0, 0.09), 100.0 + took, 0.01)
    assert counters.statistics(0).in_time == 2


@pytest.mark.parametrize(
    ("load_s", "seconds", "waits"),
    [(0.3, 4.0, True), (0.3, 6.0, False), (30.0, 50.0, True), (30.0, 70.0, False)],
)
def test_a_query_waits_for_a_start_that_takes_some_time_longer_than_the_last(
    *, load_s: float, seconds: float, waits: bool
) -> None:
    """A start of a moment takes seconds on a busy host; one that takes far longer than the last is given up."""
    now = 100.0
    route = Route(
        ServedService("one", "m", 600.0),
        live_router("late-binding"),
        batching=True,
        dividing=True,
        starts=lambda _service, _now, _hung_s: ((now - seconds, 4),),
        hung_s=lambda _service: 0.0,
        clock=lambda: now,
    )
    link = FakeLink("one", cast("Gateway", None))
    route.leave(route.join(cast("Link", link), hello(batch=4).replace(load_s=load_s)))
    asker = Asker()
    route.ask(asking(1), None, cast("AnswerReceiver", asker))
    assert asker.done() != waits
