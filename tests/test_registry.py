"""Policies by name, Partita's own and other packages'."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from partita import registry
from partita.deadline import Deadline
from partita.drive.driver import as_drive_error
from partita.errors import InputError, PartitaError
from partita.jobs.disciplines.fair import Fair
from partita.planning.exact import ExactPlanner
from partita.planning.mig_serving import GreedyPlanner
from partita.registry import RegistryWarning, load, make, maker_of, names, registered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the path in which packages can be put."""
    monkeypatch.syspath_prepend(tmp_path)
    registry._all.cache_clear()
    yield tmp_path
    registry._all.cache_clear()


def install(site: Path, package: str, entry_points: str, **modules: str) -> None:
    info = site / f"{package.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source, encoding="utf-8")


@pytest.mark.parametrize("group", [each for each in registry.GROUPS if names(each)])
def test_all_of_partitas_own_can_be_loaded(group: str) -> None:
    for name, entry in registered(group).items():
        assert entry.own
        assert entry.package.startswith("partita ")
        assert callable(load(group, name)), name


def test_names_stand_in_the_order_of_the_alphabet() -> None:
    assert names("planners") == ("exact", "genetic", "greedy", "mcts", "mix", "ones", "whole")


def test_what_is_made_gets_the_arguments_it_names_alone() -> None:
    deadline = Deadline(1.0)
    exact, greedy = (make("planners", name, seed=7, deadline=deadline) for name in ("exact", "greedy"))
    assert isinstance(exact, ExactPlanner)
    assert exact.seed == 7
    assert isinstance(greedy, GreedyPlanner)
    assert isinstance(make("disciplines", "fair"), Fair)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(InputError, match="there is no planner 'exat'") as error:
        load("planners", "exat")
    assert error.value.hint == "did you mean exact?"
    assert error.value.where == "--planner"
    with pytest.raises(InputError) as other:
        load("planners", "qqq")
    assert other.value.hint == "one of exact, genetic, greedy, mcts, mix, ones, whole"


def test_another_packages_policies_stand_behind_partitas_and_load_when_asked_for(site: Path) -> None:
    install(
        site,
        "tabu-search",
        "[console_scripts]\nx = y:z\n[partita.planners]\nzabu = tabu:Tabu\nabu = tabu:Tabu\n",
        tabu="class Tabu:\n  plan = None.__eq__\n  def __init__(self, *, seed):\n    self.seed = seed\n",
    )
    assert names("planners")[-3:] == ("whole", "abu", "zabu")
    assert "tabu" not in sys.modules
    assert make("planners", "abu", seed=3, deadline=None).seed == 3
    entry = registered("planners")["abu"]
    assert (entry.package, entry.own) == ("tabu-search 1.2", False)


@pytest.mark.parametrize(
    ("place", "source", "told"),
    [
        ("gone:Planner", "", "ModuleNotFoundError: No module named 'gone'"),
        ("bad:Planner", "import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("bad:Planner", "1 / 0", "ZeroDivisionError: division by zero"),
        ("bad:Planner", "raise SystemExit(3)", "SystemExit: 3"),
        ("bad:Planner", "", "AttributeError: module 'bad' has no attribute 'Planner'"),
        ("bad:Planner", "Planner = 3", "bad:Planner is neither a class nor a function"),
        ("bad:Planner", "class Planner: ...", "Planner has no method 'plan'"),
        (
            "bad:Planner",
            "class Planner:\n    def __init__(self, depth): ...",
            "it asks for depth; a planner is given seed, deadline",
        ),
        (
            "bad:Planner",
            "class Planner:\n    def __init__(self):\n        raise ZeroDivisionError('of its own')\n",
            "ZeroDivisionError: of its own",
        ),
    ],
)
def test_a_broken_package_is_named_and_stops_nothing_else(
    site: Path, place: str, source: str, told: str
) -> None:
    install(site, "tabu", f"[partita.planners]\ntabu = {place}\n", bad=source)
    sys.modules.pop("bad", None)
    with pytest.raises(PartitaError) as error:
        make("planners", "tabu", seed=0, deadline=None)
    assert error.value.what == f"the planner 'tabu' of tabu 1.2 cannot be used: {told}"
    assert error.value.where == place
    assert (
        error.value.hint
        == "report it to its makers, or remove it: pip uninstall tabu; all else works without it"
    )
    assert isinstance(make("planners", "exact", seed=0, deadline=Deadline(1.0)), ExactPlanner)


def test_nobody_takes_a_name_of_partitas_own(site: Path) -> None:
    install(site, "rival", "[partita.planners]\nexact = rival:Planner\n")
    with pytest.warns(RegistryWarning, match="the planner 'exact' of rival 1.2 is ignored"):
        assert load("planners", "exact") is ExactPlanner


def test_of_two_packages_with_one_name_neither_is_taken(site: Path) -> None:
    install(site, "one", "[partita.planners]\ntabu = a:A\nonly = a:A\n")
    install(site, "two", "[partita.planners]\ntabu = b:B\n")
    with pytest.warns(RegistryWarning, match=r"one 1.2 and two 1.2 each register the planner 'tabu'"):
        assert "tabu" not in names("planners")
    assert "only" in names("planners")


def test_two_packages_that_clash_in_many_names_are_noted_once(site: Path) -> None:
    mine = "".join(f"p{n} = a:A\n" for n in range(10))
    install(site, "one", f"[partita.planners]\nexact = a:A\nmix = a:A\n{mine}")
    install(site, "two", f"[partita.planners]\n{mine}")
    with pytest.warns(RegistryWarning) as noted:
        assert "p3" not in names("planners")
    both, own = sorted(str(each.message) for each in noted)
    assert both == (
        "one 1.2 and two 1.2 each register the planner 'p0', the planner 'p1', the planner 'p2' and 7 more, "
        "so none of them is taken; uninstall one of them"
    )
    assert (
        own
        == "the planner 'exact', the planner 'mix' of one 1.2 are ignored: Partita has ones of these names"
    )


def test_a_fault_of_another_package_is_not_called_partitas(site: Path) -> None:
    source = (
        "class Algorithm:\n    def transition(self, asked):\n        return None\n"
        "class Driver:\n    def begin(self, action):\n        raise KeyError('rack')\n"
    )
    install(site, "tabu", "[partita.transition_algorithms]\ntabu = theirs:Algorithm\n", theirs=source)
    sys.modules.pop("theirs", None)
    algorithm = make("transition_algorithms", "tabu")
    assert maker_of(algorithm) == "tabu 1.2"
    assert maker_of(Fair()) == "partita itself"
    with pytest.raises(KeyError) as caught:
        sys.modules["theirs"].Driver().begin(None)
    assert as_drive_error(caught.value, "g0").what == "a fault in tabu 1.2: KeyError: 'rack'"
    assert as_drive_error(KeyError("rack"), "g0").what == "a fault in partita itself: KeyError: 'rack'"


def test_a_package_that_stands_in_the_path_twice_counts_once(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "Tabu.Search", "[partita.planners]\ntabu = a:A\n")
    again = site / "again"
    again.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(again)])
    install(again, "tabu_search", "[partita.planners]\nother = a:A\n")
    assert "tabu" in names("planners")
    assert "other" not in names("planners")


def test_what_cannot_be_read_or_is_no_group_is_told(site: Path) -> None:
    install(site, "odd", "[partita.plannners]\ntabu = a:A\n[partita.planners]\n# none\nmine = a:A [extra]\n")
    (site / "torn-1.dist-info").mkdir()
    (site / "torn-1.dist-info" / "entry_points.txt").write_bytes(b"[partita.planners]\n\xff = a:A\n")
    with pytest.warns(RegistryWarning) as told:
        assert registered("planners")["mine"].place == "a:A"
    texts = [str(each.message) for each in told]
    assert any("odd 1.2 registers something in the group partita.plannners" in text for text in texts)
    assert any("the entry points of torn 1 cannot be read" in text for text in texts)


def older(site: Path, keep: Callable[[str], bool]) -> None:
    """Put an installation of Partita in front that has the groups alone whose text is kept."""
    registry._all.cache_clear()
    here = next(iter(Path(each) for each in sys.path if list(Path(each).glob("partita-*.dist-info"))))
    (info,) = here.glob("partita-*.dist-info")
    groups = (info / "entry_points.txt").read_text(encoding="utf-8").split("\n\n")
    (site / info.name).mkdir()
    (site / info.name / "entry_points.txt").write_text("\n\n".join(filter(keep, groups)), encoding="utf-8")


def test_an_installation_that_is_older_than_the_code_says_how_it_is_mended(site: Path) -> None:
    older(site, lambda group: "partita.drivers" not in group)
    program = [sys.executable, "-m", "partita", "status", "--driver", "simulated"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    told = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    root = Path(__file__).resolve().parents[1]
    assert told.returncode == 1
    assert told.stderr == (
        "error: the installation of Partita is older than its code: "
        "it lacks the driver 'simulated', the driver 'nvml'\n"
        f"hint: install it again: pip install -e {root}\n"
    )
    with pytest.raises(PartitaError, match="older than its code"):
        load("drivers", "simulated")


def test_one_name_that_the_installation_lacks_is_told(site: Path) -> None:
    older(site, lambda _: True)
    info = next(site.glob("partita-*.dist-info")) / "entry_points.txt"
    info.write_text(info.read_text().replace("greedy = partita.planning", "greedy = partita.plan_of_old"))
    with pytest.raises(PartitaError, match=r"it lacks the planner 'greedy'$"):
        registry.require_current()
    with pytest.raises(PartitaError, match=r"No module named 'partita.plan_of_old'") as error:
        load("planners", "greedy")
    assert str(error.value.hint).startswith("install it again: pip install -e /")


def test_an_installed_package_that_lacks_a_group_says_how_it_is_mended(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_CHECKOUT", str(site))
    registry.require_current()
    older(site, lambda group: "partita.routers" not in group)
    with pytest.raises(PartitaError, match=r"it lacks every router$") as error:
        registry.require_current()
    assert error.value.hint == "install it again: pip install --force-reinstall partita"


def test_a_path_with_what_is_no_folder_is_read(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = site / "packed.zip"
    archive.write_bytes(b"PK")
    monkeypatch.setattr(sys, "path", ["", str(archive), str(site / "gone"), *sys.path])
    assert "search" in names("cuts")
