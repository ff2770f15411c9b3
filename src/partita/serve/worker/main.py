"""`python -m partita.serve.worker SPEC.json`: one process for one instance."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from partita.errors import InputError, PartitaError
from partita.serve.worker.backend import load
from partita.serve.worker.log import note
from partita.serve.worker.serving import Serving
from partita.serve.worker.spec import read_spec


def main(arguments: list[str]) -> int:
    """Load a model, serve until told to end, and return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m partita.serve.worker SPEC.json\n")
        return InputError.exit_code
    try:
        spec = read_spec(arguments[0])
        if spec.supervised:
            threading.Thread(target=_watch, name="supervisor", daemon=True).start()
        if not Path(spec.folder).is_dir():
            raise InputError("no such folder", where=spec.folder)
        backend = load(spec)
        finished = Serving(spec, backend).serve()
        if finished:
            backend.close()
    except PartitaError as error:
        sys.stderr.write(f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not finished:
        note(f"ended after {spec.grace_s:g} s with work unfinished")
        sys.stderr.flush()
        os._exit(1)  # a thread in the midst of a batch cannot be asked to end
    return 0


def _watch() -> None:
    """End this worker when its supervisor is gone; while the model loads, at once.

    A pipe, as PR_SET_PDEATHSIG strikes when the *thread* ends that started the process (prctl(2)).
    """
    with suppress(OSError):  # closed already
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
