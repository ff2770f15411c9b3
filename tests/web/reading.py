"""Reads a report's file as a browser does."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from partita.documents.codec import DocumentSource, convert
from partita.web.page import DOCUMENTS
from partita.web.report import Report

if TYPE_CHECKING:
    from pathlib import Path


class Page(HTMLParser):
    """Collects tags with their attributes, the text without scripts, and the documents."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.documents: dict[str, Any] = {}
        self._inside: dict[str, str | None] | None = None
        self._data = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._inside, self._data = dict(attrs), ""

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"} and self._inside is not None:
            if self._inside.get("id") == DOCUMENTS:
                self.documents = json.loads(self._data)["documents"]
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.text += data
        else:
            self._data += data

    @property
    def report(self) -> Report:
        """The report, checked by its types."""
        return convert(self.documents["report"], Report, DocumentSource("the report"))


def report_in(path: Path) -> Report:
    """Return the report in a file."""
    return Page(path.read_text()).report
