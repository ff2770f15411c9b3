from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.dispatching.rehearsal import hello
from tests.serve.gateway.workers import query

from partita.serve.gateway.link import Link
from partita.serve.tensors import Answer, Tensor
from partita.serve.worker.wire import HEAD, FrameKind, frame, pack_done, unpack_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.worker.wire import Hello


class Ears:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def said_hello(self, link: Link, hello: Hello) -> bool:
        del link
        self.heard.append(hello)
        return True

    def said_done(
        self, link: Link, number: int, answers: Sequence[Answer], seconds: float, waited: float
    ) -> bool:
        del link, waited
        data = [[bytes(tensor.data) for tensor in answer.outputs] for answer in answers]
        self.heard.append((number, data, seconds))
        return True

    def connected(self, link: Link) -> None:
        del link

    def said_beat(self, link: Link, fault: str | None) -> None:
        assert link.heard
        self.heard.append(("beat", fault))

    def said_load(self, link: Link, batches: int) -> None:
        del link
        self.heard.append(("load", batches))

    def said_draining(self, link: Link) -> None:
        del link
        self.heard.append("draining")

    def lost(self, link: Link, why: str) -> None:
        del link
        self.heard.append(("lost", bool(why)))


class Wire(asyncio.Transport):
    def __init__(self, link: Link) -> None:
        super().__init__()
        self.link, self.sent, self.open = link, b"", True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def abort(self) -> None:
        if self.open:
            self.open = False
            self.link.connection_lost(None)


def linked() -> tuple[Link, Ears, Wire]:
    ears = Ears()
    link = Link("w.sock", ears)
    wire = Wire(link)
    link.connection_made(wire)
    return link, ears, wire


answers = st.lists(st.binary(max_size=50), max_size=3).map(
    lambda parts: Answer(tuple(Tensor("o", "UINT8", (len(each),), each) for each in parts))
)


@given(st.lists(st.lists(answers, min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_frames_are_read_however_they_are_cut(batches: list[list[Answer]], data: st.DataObject) -> None:
    frames = [hello().packed(), *(pack_done(n, each, 0.5) for n, each in enumerate(batches))]
    stream = b"".join([*frames, frame(FrameKind.DRAINING, 0)])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    link, ears, _ = linked()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        link.data_received(stream[begin:end])
    said = [(n, [[bytes(t.data) for t in a.outputs] for a in each], 0.5) for n, each in enumerate(batches)]
    assert ears.heard == [hello(), *said, "draining"]


@given(st.binary(min_size=HEAD.size, max_size=200), st.integers(1, 200))
def test_whatever_comes_nothing_is_raised(noise: bytes, cut: int) -> None:
    link, _, wire = linked()
    for at in range(0, len(noise), cut):
        if wire.open:
            link.data_received(noise[at : at + cut])


@pytest.mark.parametrize(
    "bad",
    [
        HEAD.pack(1 << 31, 0, FrameKind.DONE, 1),
        HEAD.pack(0, 1 << 31, FrameKind.DONE, 1),
        frame(FrameKind.RUN, 1, []),
        frame(FrameKind.DONE, 1, {"answers": 3, "seconds": 1.0}),
        frame(FrameKind.HELLO, 0, {"protocol": 99}),
        HEAD.pack(3, 0, FrameKind.DONE, 1) + b"{{{",
    ],
)
def test_what_is_no_frame_ends_the_connection_with_a_reason(bad: bytes) -> None:
    link, ears, wire = linked()
    link.data_received(bad)
    assert not wire.open
    assert ears.heard == [("lost", True)]


def test_batches_are_sent_as_workers_read_them() -> None:
    link, _, wire = linked()
    link.run(7, [query(2, 1), query(1, 2)])
    header, data, kind, number = HEAD.unpack_from(wire.sent)
    assert (kind, number, len(wire.sent)) == (FrameKind.RUN, 7, HEAD.size + header + data)
    body = memoryview(wire.sent)[HEAD.size :]
    assert unpack_run(json.loads(bytes(body[:header])), body[header:]) == (query(2, 1), query(1, 2))


def test_an_error_with_half_a_surrogate_pair_is_an_error_like_others() -> None:
    link, ears, wire = linked()
    link.data_received(hello().packed() + pack_done(1, [Answer(error="\ud800")], 0.5))
    assert wire.open
    assert ears.heard[1:] == [(1, [[]], 0.5)]


def test_signs_of_life_are_heard_with_why_a_worker_cannot_answer() -> None:
    link, ears, wire = linked()
    link.data_received(
        hello().packed() + frame(FrameKind.BEAT, 0) + frame(FrameKind.BEAT, 0, {"fault": "no server"})
    )
    assert ears.heard[1:] == [("beat", None), ("beat", "no server")]
    link.heard = False
    link.data_received(frame(FrameKind.BEAT, 0))
    assert link.heard
    link.data_received(frame(FrameKind.BEAT, 0, ["fault"]))
    assert not wire.open
