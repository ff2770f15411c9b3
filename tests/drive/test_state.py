"""Where a daemon of root's may keep its state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.commands import Commands

from partita.drive.state import VARIABLE, require_safe, state_path
from partita.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

THEIRS = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def refused(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        require_safe(folder, "jobs")
    assert "/var/lib/partita" in (caught.value.hint or "")
    return caught.value


def test_a_folder_of_ours_is_safe_there_or_not(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    require_safe(state, "jobs")
    (state / "jobs").mkdir(parents=True)
    (state / "jobs" / "queue.sqlite3").touch(mode=0o600)
    require_safe(state, "jobs")
    require_safe(tmp_path / "a" / ".." / "a" / "state", "jobs")
    (tmp_path / "link").symlink_to("a/state")
    require_safe(tmp_path / "link", "jobs")
    # All may write here, and remove their own alone.
    (tmp_path / "a").chmod(0o1777)
    require_safe(state, "jobs")


def give(path: Path) -> None:
    os.chown(path, THEIRS, THEIRS, follow_symlinks=False)


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


def open_to_group(path: Path) -> None:
    os.chown(path, 0, THEIRS)
    path.chmod(0o775)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(give, "belongs to user"), (open_to_all, "by everybody"), (open_to_group, "by the group")],
)
@pytest.mark.parametrize(
    "which", ["a", "a/state", "a/state/jobs", "a/state/jobs/attempts", "a/state/energy.sqlite3"]
)
def test_what_another_user_owns_or_can_write_is_refused_wherever_it_is(
    tmp_path: Path, which: str, spoil: Callable[[Path], None], why: str
) -> None:
    state = tmp_path / "a" / "state"
    (state / "jobs" / "attempts").mkdir(parents=True)
    (state / "energy.sqlite3").touch()
    require_safe(state, "jobs")
    spoil(tmp_path / which)
    error = refused(state)
    assert why in error.what
    assert ("the state folder" if which == "a/state" else str(tmp_path / which)) in error.what
    # Through a link it is no safer.
    (tmp_path / "link").symlink_to(state)
    assert why in refused(tmp_path / "link").what


def test_a_link_that_another_user_could_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "link"
    link.symlink_to(tmp_path / "state")
    require_safe(link)
    give(link)
    assert f"chown root: {link}" in (refused(link).hint or "")
    give(tmp_path / "state")
    link.unlink()
    link.symlink_to(tmp_path / "state")
    assert "belongs to user" in refused(link).what
    shared.chmod(0o777)
    assert "by everybody" in refused(link).what


def test_a_sticky_folder_itself_and_a_circle_of_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    assert "by everybody" in refused(tmp_path / "sticky").what
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(InputError, match="form a loop"):
        require_safe(tmp_path / "one")


@pytest.mark.parametrize("words", [("daemon",), ("run", "-f", "w.yaml", "--jobs")])
def test_the_daemon_refuses_before_it_opens_anything(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
) -> None:
    commands = Commands(tmp_path, monkeypatch, capsys)
    commands.state.mkdir()
    # What a user could plant: root would empty the file that it leads to.
    target = tmp_path / "precious"
    target.write_text("precious")
    (commands.state / "controller.lock").symlink_to(target)
    give(commands.state)
    found = commands(*words)
    assert found.code == 2
    assert "the state folder belongs to user" in found.err
    assert target.read_text() == "precious"
    assert list(commands.state.iterdir()) == [commands.state / "controller.lock"]


def test_a_user_without_an_account_and_a_home_has_the_root_as_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "XDG_STATE_HOME", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31)
    assert state_path() == Path("/.local/state/partita")
