from __future__ import annotations

from pathlib import Path

import pytest

from partita.drive.state import state_folder, state_path
from partita.errors import InputError


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PARTITA_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_state_is_kept_under_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert state_path() == tmp_path / ".local/state/partita"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert state_path() == tmp_path / ".local/state/partita"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/x")
    assert state_path() == Path("/var/x/partita")
    monkeypatch.setenv("PARTITA_STATE", "~/here")
    assert state_path() == tmp_path / "here"


def test_the_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    folder = state_folder()
    assert folder == tmp_path / ".local/state/partita"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert state_folder() == folder


def test_a_folder_that_cannot_be_made_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARTITA_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(InputError, match="cannot be made") as caught:
        state_folder()
    assert "PARTITA_STATE" in str(caught.value.hint)
