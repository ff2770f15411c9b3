"""The performance tables of a Workload: in ConfigMaps, or as text in its spec."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.errors import InputError, PartitaError
from partita.kubernetes.objects import CONFIG_MAP, NotFoundError
from partita.perf.reading import read_tables
from partita.perf.table import PerfTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.resources import WorkloadSpec

_TABLES_S = 15.0  # between two reads of a ConfigMap


class RefusedWorkloadError(PartitaError):
    """A Workload that the controller cannot accept.

    Attributes:
        reason: of the condition, one word in camel case.
    """

    def __init__(self, reason: str, error: PartitaError) -> None:
        super().__init__(error.what, where=error.where, hint=error.hint)
        self.reason = reason


class WorkloadTables:
    """Reads the performance tables of a Workload, and their ConfigMaps again every 15 s."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api
        self._texts: dict[tuple[str, str], tuple[float, str]] = {}
        self._last: tuple[list[str], PerfTable] | None = None

    def read(self, spec: WorkloadSpec) -> tuple[PerfTable, list[str]]:
        """Return all tables as one, and the text of each.

        Raises:
            RefusedWorkloadError: a table is missing or cannot be used.
            KubernetesError: the API does not answer.
        """
        sources = [self._text(index, each) for index, each in enumerate(spec.performance)]
        texts = [text for _, text in sources]
        if self._last is None or self._last[0] != texts:
            self._last = texts, _joined(sources)
        return self._last[1], texts

    def _text(self, index: int, source: Any) -> tuple[str, str]:  # noqa: ANN401 -- one of its fields is set
        """Return a table's name and text."""
        if source.csv is not None:
            return f"performance[{index}].csv", source.csv
        wanted = source.config_map
        key = wanted.name, wanted.key
        name = f"ConfigMap {wanted.name} {wanted.key}"
        known = self._texts.get(key)
        if known is not None and time.monotonic() < known[0] + _TABLES_S:
            return name, known[1]
        where = f"performance[{index}].configMap"
        try:
            data = self._api.get(CONFIG_MAP, wanted.name).data
        except NotFoundError:
            hint = f"make it: `kubectl create configmap {wanted.name} --from-file={wanted.key}`"
            error = InputError(f"there is no ConfigMap {wanted.name!r}", where=where, hint=hint)
            raise RefusedWorkloadError("TableMissing", error) from None
        if wanted.key not in data:
            hint = f"its keys are {', '.join(sorted(data)) or 'none'}"
            error = InputError(f"ConfigMap {wanted.name!r} has no key {wanted.key!r}", where=where, hint=hint)
            raise RefusedWorkloadError("TableMissing", error)
        self._texts[key] = time.monotonic(), data[wanted.key]
        return name, data[wanted.key]


def _joined(sources: Sequence[tuple[str, str]]) -> PerfTable:
    """Return tables as one; errors call each table by the name that users gave it.

    Raises:
        RefusedWorkloadError: a table cannot be used.
    """
    if not sources:
        return PerfTable(())
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.csv" for index in range(len(sources))]
        for path, (_, text) in zip(paths, sources, strict=True):
            path.write_text(text, encoding="utf-8")
        try:
            return read_tables(map(str, paths))
        except InputError as error:
            for path, (name, _) in zip(paths, sources, strict=True):
                error.what = error.what.replace(str(path), name)
                error.where = error.where and error.where.replace(str(path), name)
            raise RefusedWorkloadError("TableInvalid", error) from None
