"""Queries joined into one batch and its outputs split again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.serve.tensors import APART, ITEM_BYTES, Answer, Parameters, Query, Tensor, pack_texts
from partita.serve.worker.batching import InvalidQueryError, Joining, Lanes, decode_texts, run_joined
from partita.serve.worker.wire import Frames, unpack_done

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from partita.serve.worker.backend import Backend
    from partita.serve.worker.connection import Connection


TEXTS = st.lists(st.binary(max_size=5), max_size=6)


@st.composite
def queries(draw: st.DrawFn) -> list[Query]:
    """Queries of two inputs of few unlike shapes, every byte of them drawn."""
    found = []
    for _ in range(draw(st.integers(1, 6))):
        rows, width = draw(st.integers(0, 4)), draw(st.sampled_from([1, 3]))
        datatype = draw(st.sampled_from(["FP32", "UINT8"]))
        numbers = draw(st.binary(min_size=(n := rows * width * ITEM_BYTES[datatype]), max_size=n))
        texts = draw(st.lists(st.binary(max_size=5), min_size=rows, max_size=rows))
        inputs = [
            Tensor("A", datatype, (rows, width), numbers),
            Tensor("B", "BYTES", (rows, 1), pack_texts(texts)),
        ]
        wanted = draw(st.sampled_from([(), ("B",), ("A", "B"), ("B", "A")]))
        found.append(Query(tuple(draw(st.permutations(inputs))), wanted))
    return found


def echo(query: Query) -> Answer:
    by_name = {each.name: each for each in query.inputs}
    return Answer(tuple(by_name[name] for name in (query.outputs or ("A", "B"))))


def plain(tensors: tuple[Tensor, ...]) -> list[tuple[str, tuple[int, ...], bytes]]:
    return [(each.name, each.shape, bytes(each.data)) for each in tensors]


@given(queries(), st.sampled_from([Joining(), Joining(most=3), Joining(apart=True)]))
def test_whatever_is_joined_everyone_gets_their_own(asked: list[Query], joining: Joining) -> None:
    ran: list[Query] = []

    def run(query: Query) -> Answer:
        ran.append(query)
        for each in query.inputs:
            size = ITEM_BYTES.get(each.datatype)
            count = math.prod(each.shape)
            assert len(decode_texts(each.data)) == count if size is None else len(each.data) == count * size
        return echo(query)

    answers = run_joined(asked, joining, run)
    assert [plain(each.outputs) for each in answers] == [plain(echo(query).outputs) for query in asked]
    if joining == Joining():
        kinds = {
            frozenset((each.name, each.datatype, each.shape[1:]) for each in one.inputs)
            for one in asked
            if one.batch
        }
        assert len(ran) == len(kinds) + sum(not one.batch for one in asked)  # no rows are asked for alone
    elif joining.most:
        assert all(query.batch <= joining.most for query in ran)
    else:
        assert ran == asked


def row(value: int) -> Query:
    return Query((Tensor("A", "UINT8", (1, 1), bytes([value])),))


def test_one_query_to_blame_does_not_spoil_the_others() -> None:
    def picky(query: Query) -> Answer:
        if 13 in bytes(query.inputs[0].data):
            raise InvalidQueryError("unlucky")
        return Answer(query.inputs)

    answers = run_joined([row(1), row(13), row(2)], Joining(), picky)
    assert [each.error for each in answers] == [None, "unlucky", None]
    assert [each.invalid for each in answers] == [False, True, False]


def test_a_failure_of_the_model_is_everyones() -> None:
    def broken(query: Query) -> Answer:
        raise RuntimeError(f"out of memory with {query.batch}")

    with pytest.raises(RuntimeError, match="out of memory with 2"):
        run_joined([row(1), row(2)], Joining(), broken)


def test_outputs_that_are_no_rows_of_the_batch_are_found_for_each_query_alone() -> None:
    def total(query: Query) -> Answer:
        return Answer((Tensor("S", "UINT8", (1,), bytes([sum(bytes(query.inputs[0].data))])),))

    answers = run_joined([row(1), row(2)], Joining(), total)
    assert [bytes(each.outputs[0].data) for each in answers] == [b"\1", b"\2"]


def test_parts_that_do_not_fit_together_are_told() -> None:
    def uneven(query: Query) -> Answer:
        width = query.batch
        return Answer((Tensor("S", "UINT8", (query.batch, width), bytes(query.batch * width)),))

    three = Query((Tensor("A", "UINT8", (3, 1), b"abc"),))
    (answer,) = run_joined([three], Joining(most=2), uneven)
    assert "output S is UINT8 [2, 2] in one part of the query and UINT8 [1, 1] in another" in str(
        answer.error
    )
    assert not answer.invalid


@pytest.mark.parametrize("shape", [(), (1,)])
def test_an_output_that_is_no_rows_is_never_put_together_of_parts(shape: tuple[int, ...]) -> None:
    """A query whose parts fail so says so alone: those beside it have their answers."""

    def mean(_: Query) -> Answer:
        return Answer((Tensor("M", "UINT8", shape, b"m"),))

    three = Query((Tensor("A", "UINT8", (3, 1), b"abc"),))
    whole, part = run_joined([row(1), three], Joining(most=2), mean)
    assert whole.outputs == (Tensor("M", "UINT8", shape, b"m"),)
    assert f"output M is {list(shape)} for 2 rows" in str(part.error)


def test_what_else_a_client_says_is_said_for_it_alone_and_answers_keep_what_their_parts_have_alike() -> None:
    ran: list[Query] = []

    def told(query: Query) -> Answer:
        ran.append(query)
        more: Parameters = {"": {"same": 1, "rows": query.batch}, "A": {"kind": "np"}}
        return Answer(query.inputs, parameters=more)

    special = row(3)._replace(parameters={"": {"seed": 7}})
    three = Query((Tensor("A", "UINT8", (3, 1), b"abc"),))
    answers = run_joined([row(1), special, row(2)], Joining(), told)
    assert sorted((query.batch, query.parameters) for query in ran if query.parameters) == [
        (1, {"": {"seed": 7}})
    ]
    assert [query.batch for query in ran] == [2, 1]
    assert answers[0].parameters == {"": {"same": 1, "rows": 2}, "A": {"kind": "np"}}
    (whole,) = run_joined([three], Joining(most=2), told)
    assert whole.parameters == {"": {"same": 1}, "A": {"kind": "np"}}


@given(TEXTS)
def test_texts_come_back(texts: list[bytes]) -> None:
    assert decode_texts(pack_texts(texts)) == texts


@given(TEXTS, st.integers(1, 9))
def test_texts_cut_short_are_told(texts: list[bytes], cut: int) -> None:
    data = pack_texts([*texts, b"the last"])
    with pytest.raises(InvalidQueryError, match="end within an element"):
        decode_texts(data[:-cut])


class Growing:
    """Answers with as many bytes as a query's first one says."""

    batching = APART

    def run(self, _: int, queries: Sequence[Query]) -> Sequence[Answer]:
        sizes = [bytes(query.inputs[0].data)[0] for query in queries]
        return [Answer((Tensor("Y", "UINT8", (size,), bytes(size)),)) for size in sizes]


class Kept:
    """A connection whose answers are kept; a stream of them too."""

    open = True
    left = b""

    def answer(self, message: bytes) -> None:
        self.left += message

    def recv(self, size: int) -> bytes:
        taken, self.left = self.left[:size], self.left[size:]
        return taken


def test_answers_that_no_frame_holds_are_told() -> None:
    kept = Kept()
    lanes = Lanes(cast("Backend", Growing()), 1, lambda _: None, lambda _: None, most=100)
    queries = tuple(Query((Tensor("X", "UINT8", (1,), bytes([size])),)) for size in (60, 101, 50, 40))
    lanes.put(cast("Connection", kept), 7, queries)
    frame = Frames(cast("socket.socket", kept)).next()
    assert frame is not None
    first, alone, together, last = unpack_done(frame.header, frame.data)[0]
    assert [len(each.outputs[0].data) for each in (first, last)] == [60, 40]
    assert (alone.invalid, alone.error) == (
        True,
        "its outputs have more than the 100 bytes that an answer may have",
    )
    assert not together.invalid  # by itself, elsewhere, it has an answer
    assert "outputs of its batch" in str(together.error)
