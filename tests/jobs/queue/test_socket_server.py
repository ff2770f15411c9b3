"""No client holds the daemon up, and each is known by the kernel."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from partita.errors import DeniedError, InputError, PartitaError, UnknownNameError
from partita.jobs.queue import socket_server
from partita.jobs.queue.answers import QueueAnswer
from partita.jobs.queue.client import FILE, NoDaemonError, OtherVersionError, QueueClient, address
from partita.jobs.queue.socket_server import MOST_CLIENTS, MOST_REQUEST, SocketServer
from partita.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from partita.jobs.queue.access import Caller


class Heard(QueueAnswer, kw_only=True):
    uid: int
    pid: int
    heard: dict[str, Any]
    long: str


def answer(caller: Caller, body: Mapping[str, Any]) -> Heard:
    if body["ask"] in KINDS:
        raise KINDS[body["ask"]]("not that", where="here", hint="this")
    if body["ask"] == "refuse":
        raise InputError("not that", where="here", hint="this")
    if body["ask"] == "break":
        raise RuntimeError("broken")
    return Heard(uid=caller.uid, pid=caller.pid, heard=dict(body), long="x" * int(body.get("long", 0)))


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    over = threading.Event()
    with closing(SocketServer(folder, answer)) as server:

        def serve() -> None:
            while not over.is_set():
                server.poll(0.01)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def answering_once(folder: Path, said: bytes) -> Iterator[None]:
    """While the block runs, a daemon that gives the first request this answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        with address(folder / FILE) as short:
            listener.bind(short)
        listener.listen()

        def answer_once() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(said)

        thread = threading.Thread(target=answer_once)
        thread.start()
        yield
        thread.join()


@contextmanager
def raw(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as peer, address(folder / FILE) as short:
        peer.settimeout(20.0)
        peer.connect(short)
        yield peer


def line(peer: socket.socket) -> dict[str, Any]:
    heard = b""
    while not heard.endswith(b"\n"):
        data = peer.recv(65536)
        assert data
        heard += data
    found: dict[str, Any] = json.loads(heard)
    return found


def test_a_caller_is_known_by_the_kernel(tmp_path: Path) -> None:
    with serving(tmp_path), QueueClient(tmp_path) as client:
        found = client.ask("who", uid=12345)
        assert (found["uid"], found["pid"]) == (os.getuid(), os.getpid())


def test_a_refusal_arrives_as_the_error_it_is(tmp_path: Path) -> None:
    with serving(tmp_path), QueueClient(tmp_path) as client:
        with pytest.raises(InputError, match="here: not that") as caught:
            client.ask("refuse")
        assert caught.value.hint == "this"
        with pytest.raises(PartitaError, match="a fault in the daemon: RuntimeError"):
            client.ask("break")
        assert client.ask("who")["uid"] == os.getuid()


KINDS = {
    "no such job": UnknownNameError,
    "another's": DeniedError,
    "wrong": InputError,
    "full disk": PartitaError,
    "of a class that clients do not know": StoreError,
}


@pytest.mark.parametrize(("asked", "kind"), KINDS.items(), ids=KINDS.keys())
def test_a_refusal_is_of_the_kind_that_it_was_in_the_daemon(
    tmp_path: Path, asked: str, kind: type[PartitaError]
) -> None:
    with serving(tmp_path), QueueClient(tmp_path) as client:
        with pytest.raises(PartitaError) as caught:
            client.ask(asked)
        assert type(caught.value) is (PartitaError if kind is StoreError else kind)
        assert (caught.value.what, caught.value.where, caught.value.hint) == ("not that", "here", "this")
        assert caught.value.exit_code == kind.exit_code


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (1, PartitaError)])
@pytest.mark.parametrize("more", [{}, {"kind": "of the future"}], ids=["older", "newer"])
def test_a_refusal_of_a_daemon_that_tells_other_kinds_is_told_in_its_words(
    tmp_path: Path, code: int, kind: type[PartitaError], more: dict[str, str]
) -> None:
    said = {"what": "there is no job 9", "where": None, "hint": "look", "exit_code": code, **more}
    daemon = answering_once(tmp_path, json.dumps({"ok": False, "error": said}).encode() + b"\n")
    with daemon, QueueClient(tmp_path) as client, pytest.raises(PartitaError) as caught:
        client.ask("who")
    assert type(caught.value) is kind
    assert (str(caught.value), caught.value.hint) == ("there is no job 9", "look")


@pytest.mark.parametrize("garbage", [b"\n", b"{\n", b"[1]\n", b"\xff\xfe\n", b'"x"\n', b"[" * 90_000 + b"\n"])
def test_garbage_is_refused(tmp_path: Path, garbage: bytes) -> None:
    with serving(tmp_path), raw(tmp_path) as peer:
        peer.sendall(garbage)
        assert line(peer)["error"]["exit_code"] == 2
        peer.sendall(b'{"ask": "who"}\n')
        assert line(peer)["ok"]


def test_an_answer_is_what_clients_of_every_version_read(tmp_path: Path) -> None:
    with serving(tmp_path), raw(tmp_path) as peer:
        peer.sendall(b'{"ask": "who", "name": "\\udcff"}\n{"ask": "refuse"}\n')
        heard = b""
        while heard.count(b"\n") < 2:
            heard += peer.recv(65536)
    told, refused = heard.splitlines()
    heard_of = '{"ask":"who","name":"\\udcff"}'
    assert (
        told.decode() == f'{{"ok":true,"uid":{os.getuid()},"pid":{os.getpid()},"heard":{heard_of},"long":""}}'
    )
    error = '{"what":"not that","where":"here","hint":"this","exit_code":2,"kind":"input"}'
    assert refused.decode() == f'{{"ok":false,"error":{error}}}'


def test_a_request_without_end_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path), raw(tmp_path) as peer:
        peer.sendall(b" " * (MOST_REQUEST + 100_000))
        assert "at most" in line(peer)["error"]["what"]


def test_clients_that_say_nothing_or_take_nothing_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_server, "PATIENCE_S", 3.0)
    with serving(tmp_path), raw(tmp_path) as silent, raw(tmp_path) as deaf, QueueClient(tmp_path) as client:
        silent.sendall(b'{"ask": ')
        deaf.sendall(b'{"ask": "who", "long": 4000000}\n' * 3)
        for _ in range(50):
            client.ask("who")
        assert silent.recv(10) == b""  # let go after a while


def test_more_clients_than_are_served_at_once_push_out_the_oldest(tmp_path: Path) -> None:
    with serving(tmp_path):
        many = []
        try:
            for _ in range(MOST_CLIENTS + 20):
                peer = socket.socket(socket.AF_UNIX)
                many.append(peer)
                with address(tmp_path / FILE) as short:
                    peer.connect(short)
            with QueueClient(tmp_path) as client:
                assert client.ask("who")["uid"] == os.getuid()
        finally:
            for peer in many:
                peer.close()


def test_a_client_that_vanishes_is_forgotten(tmp_path: Path) -> None:
    with serving(tmp_path):
        for _ in range(30):
            with raw(tmp_path) as peer:
                peer.sendall(b'{"ask": "who", "long": 300000}\n')
        with QueueClient(tmp_path) as client:
            assert client.ask("who")["uid"] == os.getuid()


def test_without_a_daemon_the_command_that_starts_one_is_told(tmp_path: Path) -> None:
    with QueueClient(tmp_path) as client, pytest.raises(NoDaemonError) as caught:
        client.ask("who")
    assert "partita daemon" in (caught.value.hint or "")


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left, address(tmp_path / FILE) as short:
        left.bind(short)
    with serving(tmp_path), QueueClient(tmp_path) as client:
        assert client.ask("who")["uid"] == os.getuid()
    assert not (tmp_path / FILE).exists()


def test_a_state_folder_with_a_long_path_is_no_fault(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    with serving(deep), QueueClient(deep) as client:
        assert client.ask("who")["uid"] == os.getuid()


def test_a_buffer_that_is_full_between_two_pieces_does_not_end_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes whole pieces, and then none at all: the rest is sent when it takes more."""
    monkeypatch.setattr(socket_server, "_CHUNK", 1)  # so that it is always full between two pieces
    long = Heard(uid=0, pid=0, heard={}, long="x" * 3_000)
    with closing(SocketServer(tmp_path, lambda _caller, _body: long)) as server:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closing(peer):
            peer.connect(str(tmp_path / "daemon.sock"))
            peer.sendall(b"{}\n")
            for _ in range(8):
                server.poll(0.1)
            peer.settimeout(5.0)
            heard = b""
            while not heard.endswith(b"\n"):
                heard += peer.recv(65536)
                server.poll(0.0)
    assert len(heard) > 3_000


def test_what_a_daemon_of_another_version_does_not_tell_is_said(tmp_path: Path) -> None:
    with serving(tmp_path), QueueClient(tmp_path) as client:
        found = client.ask("who")
    assert found.get("idle") is None
    with pytest.raises(OtherVersionError, match="does not tell `idle`") as told:
        found["idle"]
    assert "restart it" in (told.value.hint or "")
    assert "jobs survive" in (told.value.hint or "")
    with pytest.raises(OtherVersionError, match="does not tell `instance`"):
        found["heard"]["instance"]  # inside it, too


@pytest.mark.parametrize("said", [b"hello\n", b"[1]\n", b"{}\n"])
def test_an_answer_that_is_none_is_said(tmp_path: Path, said: bytes) -> None:
    with answering_once(tmp_path, said), QueueClient(tmp_path) as client, pytest.raises(OtherVersionError):
        client.ask("who")
