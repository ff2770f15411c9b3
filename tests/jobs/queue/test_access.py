"""Who may do what, asked through the daemon's answers and through real sockets."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import pytest
from tests.jobs.queue.world import ME, queue

from partita.errors import DeniedError, PartitaError
from partita.jobs.queue.access import Access, Caller, admins, submitter
from partita.jobs.queue.record import JobState

if TYPE_CHECKING:
    from pathlib import Path

ALICE = Caller(1, 54321, 54321)
BOB = Caller(2, 54322, 54322)
ROOT = Caller(3, 0, 0)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs jobs of other users")


def test_a_users_daemon_serves_that_user_and_root_alone() -> None:
    access = Access(ALICE.uid)
    access.admit(ALICE)
    access.admit(ROOT)
    with pytest.raises(DeniedError, match="serves no other users"):
        access.admit(BOB)


def test_only_root_submits_as_someone_else() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    assert submitter(ROOT, name).uid == os.getuid()
    with pytest.raises(DeniedError, match="only root"):
        submitter(ALICE, "nobody")
    with pytest.raises(PartitaError, match="there is no user"):
        submitter(ROOT, "no-such-user-here")


def test_admins_are_users_and_groups_that_exist() -> None:
    assert admins(["root", "@root"]) == (frozenset({0}), frozenset({0}))
    with pytest.raises(PartitaError, match="there is no group nothing-like-it"):
        admins(["@nothing-like-it"])


@pytest.mark.parametrize("what", ["cancel", "requeue", "history", "states", "log"])
def test_another_users_job_is_neither_read_nor_touched(tmp_path: Path, what: str) -> None:
    with queue(tmp_path, access=Access(0)) as world:
        job = world.submit("sleep", "60", caller=ALICE)
        with pytest.raises(DeniedError, match=f"job {job} belongs to 54321"):
            world.ask(what, caller=BOB, ids=[job])
        assert world.job(job).state is JobState.WAITING
        world.ask("cancel", caller=ROOT, ids=[job])
        assert world.job(job).state is JobState.CANCELLED


def test_others_see_a_job_without_its_name_and_command(tmp_path: Path) -> None:
    with queue(tmp_path, access=Access(0)) as world:
        job = world.submit("secret-program", "--key=abc", name="hidden", caller=ALICE)
        (seen,) = world.ask("queue", caller=BOB)["jobs"]
        assert seen["user"] == "54321"
        assert "secret" not in str(seen)
        assert "hidden" not in str(seen)
        (own,) = world.ask("queue", caller=ALICE)["jobs"]
        assert own["command"] == "secret-program --key=abc"
        world.ask("cancel", caller=ALICE, ids=[job])
        assert world.ask("history", caller=BOB)["jobs"] == []
        assert [each["id"] for each in world.ask("history", caller=ALICE)["jobs"]] == [job]


def test_a_priority_above_others_is_for_admins(tmp_path: Path) -> None:
    with queue(tmp_path, access=Access(0, admins=frozenset({BOB.uid}))) as world:
        with pytest.raises(DeniedError, match="priority"):
            world.submit("true", caller=ALICE, priority=5)
        high = world.submit("true", caller=BOB, priority=5)
        low = world.submit("true", caller=ALICE, priority=-5)
        world.ask("cancel", caller=BOB, ids=[low, high])


@as_root
def test_a_job_runs_with_the_rights_of_its_submitter_alone(tmp_path: Path) -> None:
    entry = pwd.getpwnam("nobody")
    nobody = Caller(4, entry.pw_uid, entry.pw_gid)
    secret = tmp_path / "secret"
    secret.write_text("for root")
    secret.chmod(0o600)
    with queue(tmp_path, access=Access(0)) as world:
        job = world.submit("sh", "-c", f"id -u; id -g; cat {secret}", caller=nobody, directory="/")
        over = world.until_state(job, JobState.FAILED)
        log = world.service.folder_of(over, 1) / "log"
        lines = log.read_text().splitlines()
        assert lines[:2] == [str(entry.pw_uid), str(entry.pw_gid)]
        assert "for root" not in lines


@as_root
def test_a_log_that_its_user_has_replaced_by_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("for root")
    with queue(tmp_path, access=Access(0)) as world:
        job = world.submit("true", caller=ME, directory="/")
        over = world.until_state(job, JobState.DONE, JobState.FAILED)
        log = world.service.folder_of(over, 1) / "log"
        log.unlink()
        log.symlink_to(secret)
        assert world.ask("log", ids=[job])["data"] == ""
