"""A process at the other end of a socket is known, looked at and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from partita.process.peer import PeerProcess, peer_of

if TYPE_CHECKING:
    from pathlib import Path

LISTENS = """
import socket, sys, time
made = socket.socket(socket.AF_UNIX)
made.bind(sys.argv[1])
made.listen()
print("ready", flush=True)
sum(range(3_000_000))
time.sleep(60)
"""


def test_a_peer_is_known_by_its_socket_and_is_ended_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with subprocess.Popen([sys.executable, "-c", LISTENS, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            peer = peer_of(connection)
        assert peer is not None
        assert peer.pid == process.pid
        work = peer.work()
        assert work is not None
        assert work.cpu_s > 0
        assert process.pid in work.runnable_s
        assert peer.runs(path)
        assert not peer.runs("partita.serve.worker")
        assert peer.kill()
        assert process.wait(20) == -9
        assert not peer.kill()
        assert peer.work() is None
        peer.close()
        assert not peer.kill()


def test_nobody_ends_itself() -> None:
    peer = PeerProcess(os.getpid())
    assert not peer.kill()
    peer.close()


def test_what_is_no_unix_socket_has_no_peer() -> None:
    assert peer_of(None) is None
    with socket.socket() as other:
        assert peer_of(other) is None
