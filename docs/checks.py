"""Checks of the documentation: links that lead somewhere, commands that exist, commands that are described."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from typing import TYPE_CHECKING

from docs.pages import commands, options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`(partita [^`]+)`")
_LINE = re.compile(r"^\s*(?:\$ )?(partita .+)$", re.MULTILINE)


def markdown_files(root: Path) -> list[Path]:
    """Return the project's Markdown files."""
    return sorted([*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("src/**/*.md")])


def link_faults(root: Path) -> Iterator[str]:
    """Yield every relative link that leads to no file, or to no heading of it."""
    for page in markdown_files(root):
        for target in _LINK.findall(_FENCED.sub("", page.read_text())):
            name, _, anchor = target.partition("#")
            if ":" in name:
                continue
            file = page.parent / name if name else page
            if not file.exists():
                yield f"{page.relative_to(root)}: the link {target} leads nowhere"
            elif anchor and anchor not in _anchors(file):
                yield f"{page.relative_to(root)}: {target}: no such heading"


def _anchors(page: Path) -> set[str]:
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_faults(root: Path) -> Iterator[str]:
    """Yield every `partita ...` in the documentation that names a command or an option that does not exist."""
    known = dict(commands())
    for page in markdown_files(root):
        if page.name == "cli.md":
            continue
        text = page.read_text()
        blocks = "\n".join(_FENCED.findall(text))
        for line in [*_INLINE.findall(_FENCED.sub("", text)), *_LINE.findall(blocks)]:
            yield from (f"{page.relative_to(root)}: `{line}`: {why}" for why in _line_faults(line, known))


def _line_faults(line: str, known: dict[tuple[str, ...], object]) -> Iterator[str]:
    path: tuple[str, ...] = ()
    for word in _words(line)[1:]:
        if (*path, word) in known:
            path = (*path, word)
        elif word.startswith("--") and word.partition("=")[0] not in {*options(known[path]), "--help"}:
            yield f"no option {word}"
        elif not path and word.isalpha() and word.islower():
            yield f"no command {word}"
            return


def _words(line: str) -> list[str]:
    """Return the words of a command up to a pipe or the like, or up to a command of the user's own."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|>;&")
    reader.whitespace_split = True
    return list(takewhile(lambda word: word != "--" and word[0] not in "|>;&", reader))


def undocumented(page: str) -> Iterator[str]:
    """Yield every command and option that docs/cli.md does not describe."""
    for path, command in commands():
        title = " ".join(("partita", *path))
        _, found, rest = page.partition(f"\n## {title}\n")
        if not found:
            yield f"docs/cli.md: {title} is missing"
            continue
        section = rest.partition("\n## ")[0]
        yield from (
            f"docs/cli.md: {title} {each} is missing" for each in options(command) if each not in section
        )
