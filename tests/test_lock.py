"""The locks hold an exact version, with hashes, for all that pyproject.toml asks for; `make lock` refreshes them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.conftest import DEPENDENCIES

ROOT = Path(__file__).parents[1]
_PIN = re.compile(
    r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)(?: ; .*?)? \\\n((?:    --hash=.*\n)+)", re.MULTILINE
)


def asked(*, development: bool) -> list[Requirement]:
    """Return what pyproject.toml asks for: the core and what builds it, or that and all extras and tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = project["project"]["dependencies"] + project["dependency-groups"]["build"]
    if development:
        lines += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
        lines += project["dependency-groups"]["dev"]
    return [Requirement(line) for line in lines]


def pins(name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for package, version, _ in _PIN.findall((ROOT / "lock" / name).read_text()):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


@pytest.mark.parametrize(("name", "development"), [("core.txt", False), ("dev.txt", True)])
def test_the_lock_has_a_version_that_each_requirement_allows(name, development):
    locked = pins(name)
    for requirement in asked(development=development):
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"lock/{name} lacks {requirement.name}: run `make lock`"
        assert all(map(requirement.specifier.contains, versions)), f"{requirement}: run `make lock`"


def test_the_tools_stand_beside_the_core_that_the_demo_runs_on():
    core, development = pins("core.txt"), pins("dev.txt")
    assert {name: development[name] for name in core} == core


def test_envoys_messages_are_apart_and_locked():
    """They have old copies of another package's files."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert set(pins("envoy.txt")) == {Requirement(line).name for line in groups["envoy"]}
    assert not set(pins("envoy.txt")) & set(pins("dev.txt"))


@pytest.mark.parametrize("name", ["core.txt", "dev.txt", "envoy.txt"])
def test_every_version_has_hashes_and_no_registry_is_named(name):
    text = (ROOT / "lock" / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(lines) == sum(map(len, pins(name).values()))
    assert not re.search(r"https?://|--index-url|--find-links|^-", text, re.MULTILINE)


def test_pyproject_keeps_open_lower_bounds():
    for requirement in asked(development=True):
        operators = {each.operator for each in requirement.specifier}
        assert ">=" in operators, f"{requirement}: say the lowest version that works"
        assert not operators & {"==", "==="}, f"{requirement}: exact versions stand in lock/"


def test_every_dependency_has_tests_that_meet_it_on_its_newest_and_lowest_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    assert sorted(DEPENDENCIES) == sorted({Requirement(line).name for line in lines})
    for paths in DEPENDENCIES.values():
        assert [path for path in paths if not (ROOT / path).exists()] == []
