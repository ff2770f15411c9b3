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
"""What an upstream server's URL may name."""


def filled(backend: BackendSpec, words: Mapping[str, str]) -> BackendSpec:
    """Return the back-end of one instance; the start is taken from its placement.

    Raises:
        InputError: its URL names a word that there is not.
    """
    if not isinstance(backend, UpstreamSpec):
        return backend
    known = {**words, "start": words["placement"].partition("@")[2]}
    try:
        return replace(backend, url=backend.url.format_map({word: known[word] for word in WORDS}))
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"the URL cannot be filled in: {error}",
            where=backend.url,
            hint=f"it may name {', '.join(f'{{{word}}}' for word in WORDS)}",
        ) from None
