"""Back-ends that are written once for all instances of a service."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from partita.errors import InputError
from partita.serve.worker.spec import UpstreamSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.serve.worker.spec import BackendSpec

WORDS = ("gpu", "placement", "start", "service", "model")
"""What an upstream server's URL and command may name, beside the port."""


def filled(backend: BackendSpec, words: Mapping[str, str]) -> BackendSpec:
    """Return the back-end of one instance; the start is taken from its placement.

    Raises:
        InputError: its URL or command names a word that there is not.
    """
    if not isinstance(backend, UpstreamSpec):
        return backend
    start = words["placement"].partition("@")[2]
    known = {**{word: {**words, "start": start}[word] for word in WORDS}, "port": "{port}"}
    return replace(
        backend,
        url=_filled(backend.url, known),
        command=tuple(_filled(word, known) for word in backend.command),
    )


def _filled(text: str, words: Mapping[str, str]) -> str:
    try:
        return text.format_map(words)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"it cannot be filled in: {error}",
            where=text,
            hint=f"it may name {', '.join(f'{{{word}}}' for word in words)}",
        ) from None
