"""Console sessions in Markdown: what follows a `$ ...` line is what the command really prints.

A session is a fenced block marked `console`. Its commands run one after the other in a temporary folder that has the
project's `examples`, so a session can use the files that an earlier one of the same page wrote. `PARTITA_STATE` is a
folder of its own there. What a page starts in the background and names in a file `*.pid` is ended with the page.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from docs.shape import session_shape

ROOT = Path(__file__).resolve().parents[1]

_SESSION = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LONGEST_S = 300.0  # on a machine with much else to do


class SessionError(Exception):
    """A command of a session failed; the message says which."""


def rerun(page: str, name: str) -> str:
    """Return a page with the output of its sessions replaced by what the commands print now.

    A session whose output has the same shape stays as it is.

    Raises:
        SessionError: a command did not exit with 0, or did not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(ROOT / "src/partita/examples")
        try:
            return _SESSION.sub(lambda found: _session(found, Path(folder), name), page)
        finally:
            for each in Path(folder).glob("*.pid"):
                with suppress(OSError, ValueError):
                    os.kill(int(each.read_text()), signal.SIGTERM)


def _session(found: re.Match[str], folder: Path, name: str) -> str:
    new = "".join(
        f"{line}\n{_run(line.removeprefix('$ '), folder, name)}"
        for line in found[1].splitlines()
        if line.startswith("$ ")
    )
    old = found[1]
    return f"```console\n{old if session_shape(old) == session_shape(new) else new}```"


def _run(command: str, folder: Path, name: str) -> str:
    here = Path(sys.executable).parent
    fixed = {
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONUTF8": "1",
        "PATH": f"{here}:{os.environ['PATH']}",
        "PARTITA_STATE": str(folder / "state"),
    }
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PARTITA_", "FORCE_COLOR"))
    }
    try:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=folder,
            env=kept | fixed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SessionError(f"{name}: `{command}` did not end within {_LONGEST_S:g} s") from None
    if done.returncode:
        raise SessionError(f"{name}: `{command}` exited with {done.returncode}:\n{done.stdout}")
    text = done.stdout.replace(f"{ROOT}/", "")  # the sample's place is another in each clone
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip().splitlines())
