"""The documents of an attempt: what a watcher writes is what the queue reads, and so is what older versions wrote."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import fields
from tests.jobs.run.attempts import Attempts, ended, until, watched

from partita.errors import InputError
from partita.jobs.queue.folders import read_log
from partita.jobs.run.documents import (
    EndingDocument,
    ExitDocument,
    JoinedLog,
    LaunchDocument,
    WatchDocument,
    read_document,
)
from partita.jobs.run.folder import open_folder
from partita.jobs.run.real import RealJobRunner
from partita.jobs.run.runner import AttemptPhase

if TYPE_CHECKING:
    from pathlib import Path

# As the first version wrote them.
LAUNCH = {
    "job": "12_3",
    "attempt": 1,
    "command": ["true"],
    "directory": "/",
    "environment": {"CUDA_VISIBLE_DEVICES": "MIG-1", "NAME": "\udcff"},
    "owner": {"uid": 0, "gid": 0, "groups": [0], "name": "root"},
    "limit_bytes": None,
    "scale": None,
    "log_bytes": 1000,
    "grace_s": 5.0,
    "boot": "another",
}
WATCH = {"watcher": 3, "main": 4, "began": 7.5, "processes": [[4, 100], [5, None]]}
EXIT = {
    "code": 3,
    "why": None,
    "out_of_memory": True,
    "began": 7.5,
    "ended": 9.5,
    "peak_bytes": 100,
    "cpu_s": 0.1,
    "left": 1,
    "stuck": [5],
    "log": {"total": 9, "dropped": 2, "head": 3, "tail": 5, "tail_at": 4},
}


def put(folder: Path, **documents: dict[str, Any]) -> None:
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))


def test_what_the_first_version_wrote_is_read(tmp_path: Path) -> None:
    put(tmp_path, launch=LAUNCH, watch=WATCH, exit=EXIT)
    (tmp_path / "lock").touch()
    (tmp_path / "log").write_bytes(b"abc\nwxyz")
    found = RealJobRunner().look(tmp_path)
    assert (found.phase, found.code, found.out_of_memory) == (AttemptPhase.ENDED, 3, True)
    assert (found.began, found.ended, found.left, found.stuck) == (7.5, 9.5, 1, (5,))
    assert (found.timed_out, found.ending) == (False, None)
    assert read_log(tmp_path, 5, frozenset({os.getuid()})) == (b"wxyz", 9)
    with open_folder(tmp_path) as folder:
        launch = read_document(folder, "launch.json", LaunchDocument)
        assert (launch.key, launch.record, launch.umask, launch.limit_s) == ("", "", 0o022, None)
        assert launch.environment["NAME"] == "\udcff"
    (tmp_path / "exit.json").unlink()
    assert RealJobRunner().look(tmp_path).why == "the host was restarted while it ran"


def test_what_only_a_newer_version_says_is_passed_over_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    put(tmp_path, launch=LAUNCH, exit={**EXIT, "joules": 7})
    (tmp_path / "lock").touch()
    assert RealJobRunner().look(tmp_path).code == 3
    put(tmp_path, exit={**EXIT, "code": "3"})
    with (
        open_folder(tmp_path) as folder,
        pytest.raises(InputError, match="code: must be a whole number"),
    ):
        read_document(folder, "exit.json", ExitDocument)


def test_a_watcher_writes_all_that_is_read(attempts: Attempts) -> None:
    folder = attempts.start("sh", "-c", "echo CUDA out of memory; sleep 0.2; exit 1")
    until(lambda: watched(folder))
    assert watched(folder).keys() == {each.name for each in fields(WatchDocument)}
    ended(folder)
    told = json.loads((folder / "exit.json").read_text())
    assert told.keys() == {each.name for each in fields(ExitDocument)} - {"lost"}
    assert told["ending"].keys() == {each.name for each in fields(EndingDocument)}
    assert told["log"].keys() == {each.name for each in fields(JoinedLog)}
