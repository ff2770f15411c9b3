"""On which lines of a document its fields stand; looked up only when there is an error to report."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from partita.workload.document import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FieldPath = tuple[str | int, ...]
"""Keys and list indices from the document's root."""


def written(path: FieldPath) -> str:
    """Return a path as users read it: `services[3].slo.latency_ms`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def path_of(text: str) -> FieldPath:
    """Return the path that `written` wrote."""
    return tuple(int(index) if index else key for index, key in re.findall(r"\[(\d+)\]|([^.\[\]]+)", text))


def lines_of(text: str, paths: Iterable[FieldPath]) -> dict[FieldPath, int]:
    """Return the line of each path, or of the nearest thing that encloses it."""
    paths = set(paths)
    wanted = {path[:n] for path in paths for n in range(len(path) + 1)}
    found: dict[FieldPath, int] = {(): 1}
    try:
        for path, line in _places(text):
            if path in wanted:
                found.setdefault(path, line)
                if len(found) == len(wanted):
                    break
    except yaml.YAMLError:
        pass  # JSON that YAML cannot read, such as escaped surrogates: the lines found so far must do
    return {
        path: next(found[path[:n]] for n in range(len(path), -1, -1) if path[:n] in found) for path in paths
    }


def _places(text: str) -> Iterator[tuple[FieldPath, int]]:
    """Yield the path and line of every mapping entry and list item, in the document's order."""
    path: list[Any] = []  # one step per open container; None in a mapping that waits for a key
    for event in events(text):
        kind = type(event)
        if kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
            path.pop()
            _close(path)
            continue
        if kind not in (yaml.ScalarEvent, yaml.AliasEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent):
            continue
        line = event.start_mark.line + 1
        if path and path[-1] is None:
            path[-1] = event.value if kind is yaml.ScalarEvent else ""
            yield tuple(path), line
            continue
        if path and isinstance(path[-1], int):
            path[-1] += 1
            yield tuple(path), line
        if kind is yaml.MappingStartEvent:
            path.append(None)
        elif kind is yaml.SequenceStartEvent:
            path.append(-1)
        else:
            _close(path)


def _close(path: list[Any]) -> None:
    """Let the mapping that encloses a value that has ended wait for its next key."""
    if path and isinstance(path[-1], str):
        path[-1] = None
