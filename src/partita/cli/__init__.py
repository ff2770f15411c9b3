"""The command line: views and composition; nothing imports it."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from partita.registry import RegistryWarning

_show = warnings.showwarning


def _note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:  # noqa: ANN401 -- passed on
    """Tell of packages whose policies cannot be used as the commands tell of all else: no line of our code helps."""
    if not issubclass(category, RegistryWarning):
        _show(message, category, *place, **more)
        return
    from partita.cli.safe_text import shown  # noqa: PLC0415 -- it is in this package, and this is run before

    text = shown(str(message)).replace("\n", "\n  ")
    sys.stderr.write(f"note: {text}\n")


warnings.showwarning = _note  # here, since options ask for names while they are imported
