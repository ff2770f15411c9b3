"""What must stay the same in documentation that shows what commands print, whatever versions print it.

A solver's version may pick another of several equally good plans, a view's version may wrap a line elsewhere, and
times differ from run to run. What is proven or follows from the input alone does not: numbers of GPUs, bounds, the
words, the rows and columns of tables, rates, SLOs and floors, exit codes, errors. `session_shape` and `page_shape`
return just that, so that two texts are alike if their shapes are equal.
"""

from __future__ import annotations

import re
from itertools import groupby

_PICKED_COLUMNS = {"capacity/s", "spare", "latency ms", "used", "then", "least", "replicas"}
"""Columns that say which of several equal plans was picked."""

_REPLICAS = re.compile(r"\s+(\d+\u00d7\S+,?\s*)+")
_CELLS = re.compile(r"\s{2,}")
_NUMBER = re.compile(r"(?<![\w.])≈?[-+]?\d[\d,]*(\.\d+)?(?![\w.]*\w)")
_GPUS = re.compile(r"\b\d+ GPUs?\b|\(bound \d+\)|\b\d+ at the end|\b\d+ empty")

_LAYOUT = (
    re.compile(r"\s*(now|then)?\s*│.*│"),  # GPUs, drawn
    re.compile(r"\u00d7 \d+  .*"),  # which GPUs a drawing is of
    re.compile(r"node-\d+(/gpu-\d+  \S+|\s+node-\d+)*"),
    re.compile(r"\s*- devices: \[.*\]|\s+mig-(devices|enabled): .*|  partita-node-\d+:"),
    re.compile(r"\d+/\d+  (create|destroy|start|stop) .*"),  # actions
    re.compile(r"\s+[\d.]+ s  (create|destroy|start|stop) .*"),
)
_FREE = (  # what else depends on the plan that was picked, or on the clock
    (re.compile(r"\d+\.\d\d s\b"), "# s"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "#"),  # a digest of a deployment
    (re.compile(r"at most \d+ of"), "at most # of"),
    (re.compile(r", \d+ of them extra"), ""),
    (re.compile(r"nearest was [\w-]+"), "nearest was #"),
)
_ACTIONS = re.compile(r".*\b(actions|carried out in)\b.*")
_KINDS = re.compile(r"(# (create|destroy|start|stop|move)(, )?)+")


def session_shape(session: str) -> list[str]:
    """Return what must stay the same in a session: commands, and the shape of what each printed."""
    found: list[str] = []
    output: list[str] = []
    for line in [*session.splitlines(), "$ "]:
        if line.startswith("$ "):
            found += _output_shape(output)
            found.append(line)
            output = []
        else:
            output.append(line.rstrip())
    return found[:-1]


def _output_shape(lines: list[str]) -> list[str]:
    found: list[str] = []
    header: list[str] = []
    for line in lines:
        cells = _CELLS.split(line.strip())
        if not line:
            header = []
        elif any(pattern.fullmatch(line) for pattern in _LAYOUT):
            found.append("(layout)")
        elif {*cells} & _PICKED_COLUMNS and len(cells) > 2:
            header = cells
            found.append(" ".join(cells))
        else:
            found.append(_row(header, cells, line) if header else _line(line))
    # How many drawings there are, and how many lines a cell is wrapped into, is the plan's and the view's matter.
    return [line for line, _ in groupby(filter(None, found))]


def _row(header: list[str], cells: list[str], line: str) -> str:
    if _REPLICAS.fullmatch(line):
        return ""
    if len(cells) != len(header):
        return _line(line)
    return " ".join(
        "#" if name in _PICKED_COLUMNS else cell for name, cell in zip(header, cells, strict=True)
    )


def _line(line: str) -> str:
    for pattern, instead in _FREE:
        line = pattern.sub(instead, line)
    if _ACTIONS.fullmatch(line):
        kept = _GPUS.findall(line)
        line = _KINDS.sub("#", _NUMBER.sub("#", line)) + "".join(kept)
    return " ".join(line.split())


_SECTION = re.compile(r"^## ", re.MULTILINE)
_DEFAULT = re.compile(r"\[default: ([^\]]*)\]")
_TYPE = re.compile(r"<[a-z][^>]*>|\[[^\]]*\]|\{[^}]*\}|\b[A-Z]{2,}\b|\.\.\.")
_USAGE = re.compile(r"^Usage: .*(?:\n +\S.*)*", re.MULTILINE)
_COMMANDS = re.compile(r"^Commands:\n((?:  .*\n?)+)", re.MULTILINE)


def page_shape(page: str) -> list[list[str]]:
    """Return what must stay the same in the page of the command line: each section's words.

    Left out is what versions of the command line's library write each in their way: the line of usage, the types of
    options, and the part of each command's summary that fits into a line.
    """
    return [_section_shape(section) for section in _SECTION.split(page)]


def _section_shape(section: str) -> list[str]:
    section = _USAGE.sub("", section)
    section = _COMMANDS.sub(lambda found: " ".join(line.split()[0] for line in _starts(found[1])), section)
    return re.findall(r"[\w./%-]+", _TYPE.sub(" ", _DEFAULT.sub(r"default \1", section)))


def _starts(lines: str) -> list[str]:
    return [line for line in lines.splitlines() if re.match(r"  \S", line)]
