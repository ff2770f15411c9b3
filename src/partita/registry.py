"""Policies by name, Partita's own and other packages': planners, routers, cuts, drivers, commands and the like.

Each is an entry point of an installed package, in the group of its kind. A package that brings a planner says in its
`pyproject.toml`:

    [project.entry-points."partita.planners"]
    tabu = "partita_tabu:TabuPlanner"

and `partita plan --planner tabu` is there once it is installed. Partita's own are registered in the same way. An
entry is a class or a function; nothing of its package is imported before it is asked for. A broken package
is reported when its policy is used, and stops nothing else.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from partita.errors import InputError, PartitaError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OWN = "partita"
"""The package whose names nobody takes away."""

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 -- as below
"""The project's folder, where this is an editable installation; else it has no `pyproject.toml`."""


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """A kind of policy.

    Attributes:
        noun: what one is called.
        option: where users name it, for errors.
        method: what it must have once it is made; None for functions, which are called as they are.
    """

    noun: str
    option: str | None = None
    method: str | None = None


GROUPS = {
    "planners": PolicyGroup("planner", "--planner", "plan"),
    "transition_algorithms": PolicyGroup("transition algorithm", "--algorithm", "transition"),
    "routers": PolicyGroup("router", "--router"),
    "cuts": PolicyGroup("cut", "--cut", "cut"),
    "disciplines": PolicyGroup("discipline", "--discipline", "decide"),
    "forecasters": PolicyGroup("forecaster", method="forecast"),
    "drivers": PolicyGroup("driver", "--driver", "begin"),
    "importers": PolicyGroup("importer"),
    "exporters": PolicyGroup("exporter"),
    "commands": PolicyGroup("command"),
}
"""The kinds there are; the entry points of `planners` stand in the group `partita.planners`."""


class RegistryWarning(UserWarning):
    """Something is registered that cannot be used; all else can."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A policy that an installed package registers.

    Attributes:
        group: its kind, a key of `GROUPS`.
        place: `module:object`, as the package wrote it.
        package: name and version of the package.
    """

    group: str
    name: str
    place: str
    package: str

    @property
    def own(self) -> bool:
        """Whether it is one of Partita's own."""
        return self.package.split()[0] == OWN

    def load(self) -> Any:  # noqa: ANN401 -- what it is depends on the group
        """Import it.

        Raises:
            PartitaError: its package is broken.
        """
        module, _, path = self.place.partition(":")
        try:
            found: Any = import_module(module)
            for each in path.split("."):
                found = getattr(found, each)
        except (Exception, SystemExit) as error:
            raise self.broken(f"{type(error).__name__}: {error}") from error
        if not callable(found):
            raise self.broken(f"{self.place} is neither a class nor a function")
        return found

    def broken(self, what: str) -> PartitaError:
        """Return the error that says what is wrong with it, and how to get on."""
        package = self.package.split()[0]
        mend = (
            _install_again()
            if self.own
            else f"report it to its makers, or remove it: pip uninstall {package}; all else works without it"
        )
        return PartitaError(
            f"the {GROUPS[self.group].noun} {self.name!r} of {self.package} cannot be used: {what}",
            where=self.place,
            hint=mend,
        )


def registered(group: str) -> Mapping[str, Registered]:
    """Return what is registered of a kind, by name: Partita's own first, then others', each by the alphabet.

    Where two packages register one name, Partita's own stays; of two others neither is taken. A warning says so.
    """
    return _all()[group]


def names(group: str) -> tuple[str, ...]:
    """Return the names of a kind, in the order of `registered`."""
    return tuple(registered(group))


def load(group: str, name: str) -> Any:  # noqa: ANN401 -- what it is depends on the group
    """Return the class or function of a name.

    Raises:
        InputError: nobody registers that name.
        PartitaError: its package is broken, or Partita's installation is older than its code.
    """
    known = registered(group)
    if name not in known:
        require_current()
        kind = GROUPS[group]
        meant = nearest(name, list(known))
        hint = f"did you mean {meant}?" if meant else f"one of {', '.join(known)}"
        raise InputError(f"there is no {kind.noun} {name!r}", where=kind.option, hint=hint)
    return known[name].load()


def make(group: str, name: str, **given: object) -> Any:  # noqa: ANN401 -- as above
    """Return the policy of a name, made with those of the given arguments that it names.

    So all of a kind can be made alike, and one that needs no seed does not ask for it.

    Raises:
        InputError: nobody registers that name.
        PartitaError: its package is broken, or makes something else.
    """
    from inspect import Parameter, signature  # noqa: PLC0415 -- slow to import, and not for names

    maker, entry, method = load(group, name), registered(group)[name], GROUPS[group].method
    parameters = signature(maker).parameters.values()
    takes_all = any(each.kind is Parameter.VAR_KEYWORD for each in parameters)
    named = [
        each for each in parameters if each.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
    ]
    missing = [each.name for each in named if each.default is Parameter.empty and each.name not in given]
    if missing:
        raise entry.broken(
            f"it asks for {', '.join(missing)}; a {GROUPS[group].noun} is given {', '.join(given)}"
        )
    known = given.keys() if takes_all else given.keys() & {each.name for each in named}
    arguments = {key: given[key] for key in known}
    try:
        made = maker(**arguments)
    except PartitaError:
        raise
    except Exception as error:
        if entry.own:
            raise
        raise entry.broken(f"{type(error).__name__}: {error}") from error
    if method is not None and not callable(getattr(made, method, None)):
        raise entry.broken(f"{type(made).__name__} has no method {method!r}")
    return made


def package_at_fault(error: BaseException) -> str | None:
    """Return name and version of the other package whose policy an error passed through; None if it was only ours."""
    modules = {
        each.place.partition(":")[0].partition(".")[0]: each.package
        for by_name in _all().values()
        for each in by_name.values()
        if not each.own
    }
    found, trace = None, error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found, trace = modules.get(module, found), trace.tb_next
    return found


def require_current() -> None:
    """Refuse an installation that is older than its code, as it is after a `git pull` alone, or that is damaged.

    Names are registered when a package is installed, so such an installation lacks names that the code has.

    Raises:
        PartitaError: it lacks some; the hint says how to install it again.
    """
    own = {each for by_name in _all().values() for each in by_name.values() if each.own}
    there = {(each.group, each.name, each.place) for each in own}
    declared = _read(os.path.join(_CHECKOUT, "pyproject.toml"), OWN)  # noqa: PTH118 -- as below
    lacking = [
        f"the {GROUPS[each.group].noun} {each.name!r}"
        for each in declared
        if (each.group, each.name, each.place) not in there
    ] or [f"every {kind.noun}" for group, kind in GROUPS.items() if group not in {each.group for each in own}]
    if lacking:
        told = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise PartitaError(
            f"the installation of Partita is older than its code: it lacks {told}", hint=_install_again()
        )


def _install_again() -> str:
    editable = os.path.exists(os.path.join(_CHECKOUT, "pyproject.toml"))  # noqa: PTH110, PTH118 -- as below
    return f"install it again: pip install {f'-e {_CHECKOUT}' if editable else '--force-reinstall partita'}"


@cache
def _all() -> dict[str, dict[str, Registered]]:
    """Return what all installed packages register, by group and name."""
    found: dict[str, dict[str, list[Registered]]] = {group: {} for group in GROUPS}
    for entry in _entries():
        found[entry.group].setdefault(entry.name, []).append(entry)
    return {group: dict(_chosen(by_name)) for group, by_name in found.items()}


def _chosen(by_name: Mapping[str, list[Registered]]) -> Iterator[tuple[str, Registered]]:
    for name, entries in sorted(
        by_name.items(), key=lambda item: (not any(entry.own for entry in item[1]), item[0])
    ):
        mine = next((entry for entry in entries if entry.own), None)
        if mine is None and len(entries) == 1:
            mine = entries[0]
        others = " and ".join(entry.package for entry in entries if not entry.own)
        noun = GROUPS[entries[0].group].noun
        if mine is None:
            _warn(f"{others} each register the {noun} {name!r}, so neither is taken; uninstall one of them")
            continue
        if len(entries) > 1:
            _warn(f"the {noun} {name!r} of {others} is ignored: Partita has one of that name")
        yield name, mine


def _warn(what: str) -> None:
    warnings.warn(what, RegistryWarning, stacklevel=2)


def _entries() -> Iterator[Registered]:
    """Yield all entry points in groups of Partita.

    The files are read here and not through `importlib.metadata`: its import alone takes 36 ms, a seventh of what
    `partita --help` takes, and this takes one.
    """
    seen: set[str] = set()
    for folder in sys.path:
        try:
            inside = sorted(os.listdir(folder or "."))  # noqa: PTH208 -- half the time of Path.glob
        except OSError:
            continue  # an archive, or a folder that is not there: no package of ours
        for each in inside:
            stem, ending = os.path.splitext(each)  # noqa: PTH122 -- as above
            if ending not in {".dist-info", ".egg-info"}:
                continue
            package, _, version = stem.partition("-")
            name = re.sub(r"[-_.]+", "-", package).lower()
            if name not in seen:  # what stands further on in the path would not be imported either
                seen.add(name)
                yield from _read(os.path.join(folder, each, "entry_points.txt"), f"{name} {version}")  # noqa: PTH118


def _read(file: str, package: str) -> Iterator[Registered]:
    """Yield the entry points of one package in groups of Partita, from its `entry_points.txt` or `pyproject.toml`."""
    try:
        with open(file, encoding="utf-8") as stream:  # noqa: PTH123 -- as above
            text = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        _warn(f"what {package} registers cannot be read: {file}: {error}")
        return
    if "partita." not in text:
        return
    group = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            kind = line.strip("[] ").removeprefix("project.entry-points.").strip('"')
            group = kind.removeprefix("partita.") if kind.startswith("partita.") else None
            if group is not None and group not in GROUPS:
                _warn(f"{package} registers something in the group {kind}; Partita's are {', '.join(GROUPS)}")
                group = None
        elif group is not None and line and line[0] not in "#;":
            name, _, place = (part.strip(' "') for part in line.partition("="))
            yield Registered(group, name, place.partition("[")[0].strip(), package)
