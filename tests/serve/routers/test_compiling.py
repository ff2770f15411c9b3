from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from partita.serve.routers.compiling import compiled, drop_first, push

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

POLICY = """\
from typing import NamedTuple
class {name}(NamedTuple):
    least: float
def asked(tables):
    return tables.least + more
more = {more}
"""


def written(folder: Path, name: str, more: float) -> ModuleType:
    (folder / "their_policy.py").write_text(POLICY.format(name=name, more=more))
    sys.modules.pop("their_policy", None)
    importlib.invalidate_caches()
    return importlib.import_module("their_policy")


def test_a_newer_version_of_a_policy_is_compiled_anew_whatever_the_cache_has_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, more in (("Tables", 1.0), ("Renamed", 2.0)):  # of one length: their functions stand on one line
        module = written(tmp_path, name, more)
        assert compiled(module.asked)(getattr(module, name)(0.5)) == 0.5 + more
    monkeypatch.delitem(sys.modules, "their_policy")


def test_a_constant_takes_the_place_of_the_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = written(tmp_path, "Tables", 1.0)
    assert [compiled(module.asked, more=more)(module.Tables(0.5)) for more in (True, False)] == [1.5, 0.5]
    assert module.asked(module.Tables(0.5)) == 1.5
    monkeypatch.delitem(sys.modules, "their_policy")


@pytest.mark.parametrize("seed", range(5))
def test_the_heap_gives_what_was_put_in_order_and_of_equal_keys_the_least_value_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    key, value = np.empty(40), np.empty(40, dtype=np.int64)
    left: list[tuple[float, int]] = []
    for number in rng.permutation(200).tolist():
        if len(left) == 40 or (left and rng.random() < 0.45):
            assert (key[0], value[0]) == min(left)
            left.remove(min(left))
            drop_first(key, value, len(left))
        else:
            entry = float(rng.integers(0, 6)), number
            push(key, value, len(left), entry)
            left.append(entry)
    while left:
        assert (key[0], value[0]) == min(left)
        left.remove(min(left))
        drop_first(key, value, len(left))
