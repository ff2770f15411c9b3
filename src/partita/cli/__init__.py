"""The command line: views and composition; nothing imports it."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from partita.registry import RegistryWarning

_show = warnings.showwarning


def _note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:  # noqa: ANN401 -- passed on
    """Tell of warnings as the commands tell of all else; of packages at fault without a line of our code."""
    from partita.cli.json_log import tell, wants_json  # noqa: PLC0415 -- it is in this package, and this is run before
    from partita.cli.safe_text import shown  # noqa: PLC0415 -- likewise

    ours = issubclass(category, RegistryWarning)
    if wants_json(sys.argv[1:]):
        where = None if ours else ":".join(map(str, place[:2]))  # the file and its line
        tell("warning", str(message), category=category.__name__, where=where)
    elif ours:
        text = shown(str(message)).replace("\n", "\n  ")
        sys.stderr.write(f"note: {text}\n")
    else:
        _show(message, category, *place, **more)


warnings.showwarning = _note  # here, since options ask for names while they are imported
