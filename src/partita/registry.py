"""Policies by name, from Partita and other packages: planners, routers, cuts, drivers, commands and others.

Each is an entry point of an installed package, in the group of its kind. A package with a planner has in its
`pyproject.toml`:

    [project.entry-points."partita.planners"]
    tabu = "partita_tabu:TabuPlanner"

After it is installed, `partita plan --planner tabu` works. Partita registers its own policies in the same way. An
entry is a class or a function; its package is imported when the policy is first used. A broken package is reported
when its policy is used, and affects nothing else.
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
"""The package whose names take precedence."""

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 -- as below
"""The project's folder in an editable installation; in others it has no `pyproject.toml`."""


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """A kind of policy.

    Attributes:
        noun: its name in texts.
        option: the option that selects it, for errors.
        method: a method that its object must have; None for functions.
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
"""All kinds; the entry points of `planners` are in the group `partita.planners`."""


class RegistryWarning(UserWarning):
    """A registered policy cannot be used; all others can."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A policy that an installed package registers.

    Attributes:
        group: its kind, a key of `GROUPS`.
        name: of the policy.
        place: `module:object`, as in the package's entry point.
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
        """Return an error about it, with a hint to go on."""
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
    """Return the policies of a kind, by name: Partita's own first, then the others, each sorted by name.

    If two packages register the same name, Partita's own is used; of two other packages' neither is, with a warning.
    """
    return _all()[group]


def names(group: str) -> tuple[str, ...]:
    """Return the names of a kind, in the order of `registered`."""
    return tuple(registered(group))


def load(group: str, name: str) -> Any:  # noqa: ANN401 -- what it is depends on the group
    """Return the class or function of a name.

    Raises:
        InputError: no package registers that name.
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
    """Return the policy of a name, constructed with those of the given arguments that it has parameters for.

    So all policies of a kind are constructed alike, and one that needs no seed has no such parameter.

    Raises:
        InputError: no package registers that name.
        PartitaError: its package is broken, or the object lacks the kind's method.
    """
    from inspect import Parameter, signature  # noqa: PLC0415 -- slow to import, and not needed for names

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
    """Return name and version of the other package that an error's traceback passed through; None if none."""
    modules, trace = _others(), error.__traceback__
    found = None
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found, trace = modules.get(module, found), trace.tb_next
    return found


def culprit(error: BaseException) -> str:
    """Return whose fault an unexpected error is, as text: another package's, or `partita itself`."""
    return package_at_fault(error) or "partita itself"


def maker_of(policy: object) -> str:
    """Return the package that a policy is from, as `culprit` returns it."""
    return _others().get(type(policy).__module__.partition(".")[0], "partita itself")


def _others() -> dict[str, str]:
    """Return name and version of the other packages that register policies, by their top-level module."""
    return {
        each.place.partition(":")[0].partition(".")[0]: each.package
        for by_name in _all().values()
        for each in by_name.values()
        if not each.own
    }


def require_current() -> None:
    """Refuse an installation that is damaged or older than its code, as after a `git pull` without an installation.

    Names are registered when a package is installed, so such an installation lacks names that the code has.

    Raises:
        PartitaError: names are missing; the hint has the command that installs it again.
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
        raise PartitaError(
            f"the installation of Partita is older than its code: it lacks {_listed(lacking)}",
            hint=_install_again(),
        )


def _listed(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _install_again() -> str:
    editable = os.path.exists(os.path.join(_CHECKOUT, "pyproject.toml"))  # noqa: PTH110, PTH118 -- as below
    return f"install it again: pip install {f'-e {_CHECKOUT}' if editable else '--force-reinstall partita'}"


@cache
def _all() -> dict[str, dict[str, Registered]]:
    """Return the policies of all installed packages, by group and name."""
    found: dict[str, dict[str, list[Registered]]] = {group: {} for group in GROUPS}
    for entry in _entries():
        found[entry.group].setdefault(entry.name, []).append(entry)
    clashes: dict[tuple[bool, str], list[str]] = {}
    chosen = {group: dict(_chosen(by_name, clashes)) for group, by_name in found.items()}
    for (own, packages), which in clashes.items():
        several = len(which) > 1
        if own:
            names = "ones of these names" if several else "one of that name"
            _warn(f"{_listed(which)} of {packages} {'are' if several else 'is'} ignored: Partita has {names}")
        else:
            none = "none of them" if several else "neither"
            _warn(f"{packages} each register {_listed(which)}, so {none} is taken; uninstall one of them")
    return chosen


def _chosen(
    by_name: Mapping[str, list[Registered]], clashes: dict[tuple[bool, str], list[str]]
) -> Iterator[tuple[str, Registered]]:
    """Yield the policy that each name stands for; add names that several packages register to `clashes`.

    Those are kept by whether Partita's own is among them, and by the other packages.
    """
    for name, entries in sorted(
        by_name.items(), key=lambda item: (not any(entry.own for entry in item[1]), item[0])
    ):
        mine = next((entry for entry in entries if entry.own), None)
        if len(entries) > 1:
            others = " and ".join(entry.package for entry in entries if not entry.own)
            which = f"the {GROUPS[entries[0].group].noun} {name!r}"
            clashes.setdefault((mine is not None, others), []).append(which)
        elif mine is None:
            mine = entries[0]
        if mine is not None:
            yield name, mine


def _warn(what: str) -> None:
    warnings.warn(what, RegistryWarning, stacklevel=2)


def _entries() -> Iterator[Registered]:
    """Yield all entry points in Partita's groups.

    This reads the files itself, in 1 ms: importing `importlib.metadata` alone takes 36 ms, a seventh of the time of
    `partita --help`.
    """
    seen: set[str] = set()
    for folder in sys.path:
        try:
            inside = sorted(os.listdir(folder or "."))  # noqa: PTH208 -- half the time of Path.glob
        except OSError:
            continue  # an archive, or a missing folder
        for each in inside:
            stem, ending = os.path.splitext(each)  # noqa: PTH122 -- as above
            if ending not in {".dist-info", ".egg-info"}:
                continue
            package, _, version = stem.partition("-")
            name = re.sub(r"[-_.]+", "-", package).lower()
            if name not in seen:  # a second one later in the path would not be imported either
                seen.add(name)
                yield from _read(os.path.join(folder, each, "entry_points.txt"), f"{name} {version}")  # noqa: PTH118


def _read(file: str, package: str) -> Iterator[Registered]:
    """Yield one package's entry points in Partita's groups, from its `entry_points.txt` or `pyproject.toml`."""
    try:
        with open(file, encoding="utf-8") as stream:  # noqa: PTH123 -- as above
            text = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        _warn(f"the entry points of {package} cannot be read: {file}: {error}")
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
