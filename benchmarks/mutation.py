"""Mutation testing: change one thing in the code that guards everything else, and see whether a test notices.

`python -m benchmarks.mutation` goes through the checkers and what the transitions' safety rests on, one small change
(a mutant) at a time: a comparison turned round, a number changed, a statement left out. For each, the tests that run
through the changed line are run in a process of its own, quickest first, until one fails. A mutant that no test
notices has survived: it is either listed with its reason in `benchmarks/survivors.toml`, or a hole in the tests.

The tests are collected once, and each mutant is a fork whose functions get the changed code, so a mutant costs what
its quickest test costs. Compilation by numba is switched off, since compiled loops cannot be changed so.

The idea is that of mutmut and cosmic-ray (DeMillo, Lipton, Sayward 1978); made here because they start the test
runner anew for each of two thousand mutants.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import importlib
import json
import os
import random
import signal
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.report import stamp, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PAGE = ROOT / "docs" / "mutation.md"
KEPT = Path(__file__).with_name("mutation.json")
"""The last whole run of each file."""
SURVIVORS = Path(__file__).with_name("survivors.toml")
SHARE = 0.95
"""Part of the mutants that tests must notice, those with a reason in `survivors.toml` left out."""


@dataclass(frozen=True)
class Target:
    """Code to change, and the tests that should notice.

    Attributes:
        name: what the table calls it.
        files: below `src/partita`.
        tests: files or folders below `tests`.
        why: what rests on it.
        examples: most examples of a property whose test says itself how many it draws; as many as it says without it.
    """

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    why: str
    examples: int | None = None


TARGETS = (
    Target(
        "planning/check",
        ("planning/check.py",),
        ("planning/test_check_by_hand.py", "planning/test_check_pools.py"),
        "says whether a plan is right",
    ),
    Target(
        "transition/check",
        ("transition/check.py",),
        ("transition/test_check_by_hand.py", "transition/test_relax.py", "transition/test_check.py"),
        "says whether a transition is safe in every order",
    ),
    Target(
        "transition/closure",
        ("transition/closure.py",),
        ("transition/test_closure.py",),
        "finds the least capacity over all orders",
    ),
    Target(
        "transition/relax",
        ("transition/relax.py",),
        ("transition/test_relax.py",),
        "decides which actions may happen in any order",
    ),
    Target("mig/layout", ("mig/layout.py",), ("mig/test_layout.py",), "says how a GPU can be cut"),
    Target(
        "jobs/check",
        ("jobs/check.py",),
        ("jobs/test_check.py",),
        "says whether a schedule of jobs is right",
    ),
    Target(
        "jobs/restarts",
        ("jobs/restarts.py",),
        ("jobs/test_restarts.py",),
        "decides what follows an out-of-memory",
    ),
    Target(
        "serve/routers",
        (
            "serve/routers/bound.py",
            "serve/routers/compiling.py",
            "serve/routers/fifs.py",
            "serve/routers/kairos.py",
            "serve/routers/late_binding.py",
            "serve/routers/shared.py",
        ),
        (
            "serve/routers/test_bound.py",
            "serve/routers/test_compiling.py",
            "serve/routers/test_fifs.py",
            "serve/routers/test_late_binding.py",
            "serve/routers/test_live.py",
            "serve/routers/test_shared.py",
            "serve/routers/test_simulated.py",
            "serve/dispatching/test_dispatcher.py",
        ),
        "decides which slice answers which query, live and simulated",
        examples=25,
    ),
)


@dataclass(frozen=True)
class Mutant:
    """One change: where, what it was and what it is now, and what compiles the changed module."""

    file: str
    line: int
    before: str
    after: str
    function: str | None
    code: Callable[[], CodeType] = field(repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What `survivors.toml` knows it by: lines move, text does not."""
        return self.file, self.function or "", self.before, self.after


# --- which changes there are ---------------------------------------------------------------------------------------

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node may be changed into."""
    for change in (_operators, _values, _flow):
        yield from change(node)


def _operators(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            for other in _COMPARE[type(op)]:
                new = copy.deepcopy(node)
                new.ops[at] = other()
                yield new
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _textual(node):
        yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC:
        yield ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for at in range(len(node.values)):
            rest = [*node.values[:at], *node.values[at + 1 :]]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand


def _values(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield ast.Constant(node.value + 1)
        elif isinstance(node.value, float):
            yield ast.Constant(0.1 if 0 < node.value < 0.05 else node.value + 0.5)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        yield ast.Call(ast.Name(_CALLS[node.func.id], ast.Load()), node.args, node.keywords)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.comprehension) and node.ifs:
        yield ast.comprehension(node.target, node.iter, [], node.is_async)


def _flow(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If | ast.While):
        for value in (True, False) if isinstance(node, ast.If) else (False,):
            new = copy.copy(node)
            new.test = ast.Constant(value)
            yield new
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, ast.Break | ast.Raise | ast.AugAssign):
        yield ast.Pass()
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        # A generator stays one: what it yields is left out by a condition that never holds.
        kept = isinstance(node.value, ast.Yield | ast.YieldFrom)
        yield ast.If(ast.Constant(value=False), [node], []) if kept else ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.Constant(None))


def _textual(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.JoinedStr | ast.List)
        or (isinstance(each, ast.Constant) and isinstance(each.value, str))
        for each in ast.walk(node)
    )


def mutants(file: str) -> list[Mutant]:
    """Return all changes of a file's functions and of its constants."""
    path = SOURCE / "partita" / file
    tree = ast.parse(path.read_text())
    found: list[Mutant] = []
    for node, function, put in list(_places(tree)):
        for new in _changed(node):
            for each in ast.walk(new):  # positions, so that tracebacks and coverage keep their lines
                if not hasattr(each, "lineno"):
                    ast.copy_location(each, node)
            before, after = _shown(node), _shown(new)
            if before == after:
                continue
            code = functools.partial(_compiled, tree, path, put, node, new)
            line = getattr(node, "lineno", 0) or getattr(getattr(node, "target", node), "lineno", 0)
            found.append(Mutant(file, line, before, after, function, code))
    return found


def _compiled(
    tree: ast.Module, path: Path, put: Callable[[ast.AST], None], node: ast.AST, new: ast.AST
) -> CodeType:
    """Compile a module with one node in another's place."""
    put(new)
    code = compile(ast.fix_missing_locations(tree), str(path), "exec")
    put(node)
    return code


def _shown(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):
        return f"{'if' if isinstance(node, ast.If) else 'while'} {ast.unparse(node.test)}:" + (
            f" {ast.unparse(node.body[0])[:60]}" if isinstance(node.test, ast.Constant) else ""
        )
    return " ".join(ast.unparse(node).split())


def _places(tree: ast.Module) -> Iterator[tuple[ast.AST, str | None, Callable[[ast.AST], None]]]:
    """Yield the nodes of functions and of module-level constants, each with how another is put in its place."""
    stack: list[tuple[ast.AST, str, str | None]] = [(tree, "", None)]
    while stack:
        parent, scope, function = stack.pop()
        for name, value in ast.iter_fields(parent):
            if name in {
                "annotation",
                "returns",
                "decorator_list",
                "type_params",
                "type_comment",
                "args",
            } and (name != "args" or isinstance(value, ast.arguments)):
                continue
            for at, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST) or _skipped(child, parent, function):
                    continue
                inside, owner = scope, function
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    inside = f"{scope}.{child.name}" if scope else child.name
                    if function is None and not isinstance(child, ast.ClassDef):
                        owner = inside
                if function is not None or isinstance(parent, ast.Assign | ast.AnnAssign) or scope == "":
                    yield child, function, functools.partial(_put, parent, name, at)
                stack.append((child, inside, owner))


def _put(parent: ast.AST, name: str, at: int, new: ast.AST) -> None:
    value = getattr(parent, name)
    if isinstance(value, list):
        value[at] = new
    else:
        setattr(parent, name, new)


def _skipped(child: ast.AST, parent: ast.AST, function: str | None) -> bool:
    if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
        return True
    if isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
        return True  # what messages say is not what is checked here
    if isinstance(child, ast.Subscript) and function is None and not isinstance(child.slice, ast.Constant):
        return True  # a name for a type
    if isinstance(parent, ast.ClassDef) and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    return function is None and isinstance(child, ast.Expr)


# --- running the tests ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What one test did before anything was changed: seconds of CPU, and the lines it ran by file."""

    seconds: float
    lines: dict[str, frozenset[int]]


class Mutating:
    """A pytest plugin that runs the collected tests against each mutant instead of once.

    Args:
        target: whose tests they are.
        chosen: the mutants of each file.
        jobs: mutants tried at once.
        tell: hears what came of a file as soon as its mutants are tried.
    """

    def __init__(
        self,
        target: Target,
        chosen: Mapping[str, Sequence[Mutant]],
        jobs: int,
        tell: Callable[[str, Score], None],
    ) -> None:
        self._target, self._chosen, self._jobs, self._tell = target, chosen, jobs, tell
        self._failed = False

    def pytest_collection(self) -> None:
        """Have hypothesis draw the same few examples each time, and stop at the first that fails."""
        from hypothesis import Phase, settings  # noqa: PLC0415 -- pytest rewrites it first

        settings.register_profile(
            "mutation",
            settings.default,
            max_examples=10,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
        )
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Have what says itself how many examples it draws draw no more than the target asks for."""
        from hypothesis import settings  # noqa: PLC0415 -- as above

        for item in items:
            function: Any = getattr(item, "obj", None)
            function = getattr(function, "__func__", function)
            own = getattr(function, "_hypothesis_internal_use_settings", None)
            if own is not None and self._target.examples is not None:
                most = min(own.max_examples, self._target.examples)
                function._hypothesis_internal_use_settings = settings(own, max_examples=most)  # noqa: SLF001

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notice a failure."""
        self._failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure each test, then run those that matter for each mutant."""
        items = list(session.items)
        known = [(item, ran) for item in items if (ran := self._measured(item)) is not None]
        if not known:
            raise pytest.UsageError(f"no test of {', '.join(self._target.tests)} passes unchanged")
        for file, chosen in self._chosen.items():
            self._tell(file, self._tried(chosen, known))
        return True

    def _tried(self, chosen: Sequence[Mutant], known: Sequence[tuple[pytest.Item, Ran]]) -> Score:
        """Return what came of mutants when the tests that matter for each were run."""
        survivors: list[Mutant] = []
        uncovered: list[Mutant] = []
        waiting = list(reversed(chosen))
        running: dict[int, Mutant] = {}
        while waiting or running:
            while waiting and len(running) < self._jobs:
                mutant = waiting.pop()
                asked = sorted(
                    ((ran.seconds, item) for item, ran in known if _touches(ran, mutant)),
                    key=lambda each: each[0],
                )
                if not asked:
                    uncovered.append(mutant)
                    continue
                pid = os.fork()
                if not pid:
                    self._try(mutant, asked)
                running[pid] = mutant
            if running:
                pid, status = os.wait()
                if status == 0:
                    survivors.append(running[pid])
                    print(f"survived: {_told(running[pid])}", file=sys.__stderr__, flush=True)
                del running[pid]
        on = datetime.now(UTC).date().isoformat()
        return Score(self._target, len(known), len(chosen), tuple(survivors), tuple(uncovered), on)

    def _measured(self, item: pytest.Item) -> Ran | None:
        """Run one test unchanged in a fork; None if it fails there or runs none of the code in question."""
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            _quiet()
            lines: dict[str, set[int]] = {
                str(SOURCE / "partita" / name): set() for name in self._target.files
            }
            loaded, begin = set(sys.modules), time.process_time()
            sys.settrace(functools.partial(_trace, lines))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            sys.settrace(None)
            told = {
                "failed": self._failed,
                "seconds": time.process_time() - begin,
                "lines": {name: sorted(found) for name, found in lines.items() if found},
                "modules": [name for name in sys.modules if name not in loaded],
            }
            with os.fdopen(writing, "w") as stream:
                json.dump(told, stream)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            text = stream.read()
        os.waitpid(pid, 0)
        result: dict[str, Any] = json.loads(text) if text else {"failed": True}
        if result["failed"] or not result["lines"]:
            return None
        for name in result["modules"]:  # what a test loads when it runs, each fork would load anew
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        return Ran(result["seconds"], {name: frozenset(each) for name, each in result["lines"].items()})

    def _try(self, mutant: Mutant, asked: Sequence[tuple[float, pytest.Item]]) -> None:
        """In a fork: change the code, run the tests, and end with 1 as soon as one fails or runs for ever."""
        _quiet()
        try:
            _apply(mutant)
        except Exception:  # noqa: BLE001 -- a module that cannot be loaded any more is noticed by everything
            os._exit(1)
        for at, (seconds, item) in enumerate(asked):
            following = asked[at + 1][1] if at + 1 < len(asked) else None
            signal.setitimer(signal.ITIMER_PROF, 1 + 3 * seconds)  # CPU seconds; the signal ends the process
            signal.alarm(60 + int(30 * seconds))
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            except BaseException:  # noqa: BLE001 -- whatever a broken module brings pytest to
                os._exit(1)
            if self._failed:
                os._exit(1)
        os._exit(0)


def _quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _trace(lines: dict[str, set[int]], frame: Any, _event: str, _: object) -> Any:  # noqa: ANN401 -- as settrace wants
    found = lines.get(frame.f_code.co_filename)
    if found is None:
        return None

    def inside(frame: Any, event: str, _: object) -> Any:  # noqa: ANN401 -- as above
        if event == "line":
            found.add(frame.f_lineno)
        return inside

    found.add(frame.f_lineno)
    return inside


def _touches(ran: Ran, mutant: Mutant) -> bool:
    path = str(SOURCE / "partita" / mutant.file)
    if mutant.function is None:
        return path in ran.lines
    return mutant.line in ran.lines.get(path, ()) or bool(
        ran.lines.get(path, frozenset()) & _statement(path, mutant.line)
    )


@functools.cache
def _spans(path: str) -> tuple[tuple[int, int], ...]:
    tree = ast.parse(Path(path).read_text())
    simple = (ast.stmt,)
    return tuple(
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, simple) and not hasattr(node, "body")
    )


def _statement(path: str, line: int) -> frozenset[int]:
    """Return the lines of the statement on a line; a test that ran one of them may notice a change in it."""
    found = [span for span in _spans(path) if span[0] <= line <= span[1]]
    return frozenset(range(found[0][0], found[0][1] + 1)) if found else frozenset()


# --- putting a change into running code -----------------------------------------------------------------------------


def _apply(mutant: Mutant) -> None:
    name = "partita." + mutant.file.removesuffix(".py").replace("/", ".")
    module = sys.modules[name]
    for each in list(sys.modules.values()):
        if getattr(each, "__name__", "").startswith("partita"):
            for value in list(vars(each).values()):
                getattr(value, "cache_clear", lambda: None)()
    if mutant.function is None:
        _replace_constants(module, mutant)
        return
    code = next(each for each in _codes(mutant.code()) if each.co_qualname == mutant.function)
    for function in _functions(module):
        if function.__qualname__ == mutant.function:
            function.__code__ = code


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    seen: set[int] = set()
    stack: list[Any] = [
        value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__
    ]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type):
            stack += list(vars(value).values())
        for name in ("__wrapped__", "__func__", "fget", "func"):
            inner = getattr(value, name, None)
            if inner is not None:
                stack.append(inner)


def _replace_constants(module: ModuleType, mutant: Mutant) -> None:
    fresh: dict[str, Any] = {
        "__name__": module.__name__,
        "__file__": module.__file__,
        "__package__": module.__package__,
    }
    exec(mutant.code(), fresh)  # noqa: S102 -- the project's own code, with one constant changed
    for function in _functions(module):  # defaults are read when a function is made
        made = fresh.get(function.__qualname__)
        if isinstance(made, FunctionType) and made.__module__ == function.__module__:
            function.__defaults__, function.__kwdefaults__ = made.__defaults__, made.__kwdefaults__
    for name, value in fresh.items():
        old = vars(module).get(name)
        if name.startswith("__") or callable(value) or type(value) is not type(old):
            continue
        for each in list(sys.modules.values()):
            if vars(each).get(name, mutant) is old:
                setattr(each, name, value)


# --- what is reported ----------------------------------------------------------------------------------------------


def _told(mutant: Mutant) -> str:
    return f"{mutant.file}:{mutant.line}: {mutant.before}  ->  {mutant.after}"


def explained() -> dict[tuple[str, str, str, str], str]:
    """Return the reasons of the survivors that need no test."""
    data = tomllib.loads(SURVIVORS.read_text()) if SURVIVORS.exists() else {}
    return {
        (each["file"], each["function"], each["before"], each["after"]): each["why"]
        for each in data.get("survivor", ())
    }


@dataclass(frozen=True)
class Score:
    """What came of the mutants of a target, or of one of its files, and on which day."""

    target: Target
    tests: int
    mutants: int
    survivors: tuple[Mutant, ...]
    uncovered: tuple[Mutant, ...]
    on: str

    @property
    def alive(self) -> list[Mutant]:
        """All that no test noticed."""
        return [*self.survivors, *self.uncovered]

    @property
    def unexplained(self) -> list[Mutant]:
        """Survivors without a reason."""
        known = explained()
        return [each for each in self.alive if each.key not in known]

    @property
    def share(self) -> float:
        """The part of the mutants that was noticed."""
        return 1 - len(self.alive) / max(1, self.mutants)


def score(
    target: Target,
    files: Sequence[str],
    tell: Callable[[str, Score], None],
    *,
    sample: int | None,
    seed: int,
    jobs: int,
) -> None:
    """Run the mutants of some of a target's files, all or a sample of each, and tell what came of each file."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # before anything imports numba
    chosen = {file: mutants(file) for file in files}
    if sample is not None:
        drawn = random.Random(seed)
        chosen = {file: drawn.sample(found, min(sample, len(found))) for file, found in chosen.items()}
    tests = [str(ROOT / "tests" / name) for name in target.tests if (ROOT / "tests" / name).exists()]
    quiet = ["-p", "no:terminal", "-p", "no:cacheprovider", "-o", "addopts=", "--import-mode=importlib"]
    pytest.main([*quiet, *tests], plugins=[Mutating(target, chosen, jobs, tell)])


def main() -> None:
    """Score the targets that are named, or all, and write the page when all were scored whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "names", nargs="*", help=f"targets: {', '.join(each.name for each in TARGETS)}; all without one"
    )
    parser.add_argument("--sample", type=int, help="mutants of each file, drawn at random; all without it")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants tried at once")
    parser.add_argument(
        "--file", nargs="*", default=[""], help="only files whose name contains this, or one of these"
    )
    parser.add_argument("--page", action="store_true", help="only write the page anew, from the last runs")
    asked = parser.parse_args()
    if asked.page:
        PAGE.write_text(_page(_kept()))
        return
    chosen = [each for each in TARGETS if not asked.names or each.name in asked.names]
    if not chosen:
        parser.error(f"no such target; there are {', '.join(each.name for each in TARGETS)}")
    scores = []
    for target in chosen:
        files = [file for file in target.files if any(part in file for part in asked.file)]
        if files:
            scores.append(_forked(target, files, asked))
            print(_line(scores[-1]), flush=True)
    missed = [each for found in scores for each in found.unexplained]
    for each in missed:
        print(f"no test notices {_told(each)}")
    if kept := _kept():
        PAGE.write_text(_page(kept))
    total = sum(found.mutants for found in scores)
    if len(missed) > (1 - SHARE) * total:
        sys.exit(f"{len(missed)} of {total} mutants are noticed by no test and have no reason")


def _forked(target: Target, files: Sequence[str], asked: argparse.Namespace) -> Score:
    """Score a target in a process of its own, since pytest's state does not survive a second run in one process.

    What came of a file is kept at once: where a run is broken off, `--file` goes on with the others.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        with os.fdopen(writing, "w") as stream:

            def tell(file: str, found: Score) -> None:
                print(json.dumps([file, _told_of(found)]), file=stream, flush=True)

            score(target, files, tell, sample=asked.sample, seed=asked.seed, jobs=asked.jobs)
        os._exit(0)
    os.close(writing)
    scores = []
    with os.fdopen(reading) as stream:
        for line in stream:
            file, told = json.loads(line)
            scores.append(_score(target, told))
            if asked.sample is None:
                _keep(file, scores[-1])
    os.waitpid(pid, 0)
    if len(scores) < len(files):
        sys.exit(f"{target.name}: its tests could not be run")
    return _whole(target, scores)


def _whole(target: Target, files: Sequence[Score]) -> Score:
    """Add up what came of a target's files."""
    return Score(
        target,
        max(each.tests for each in files),
        sum(each.mutants for each in files),
        tuple(mutant for each in files for mutant in each.survivors),
        tuple(mutant for each in files for mutant in each.uncovered),
        min(each.on for each in files),
    )


def _score(target: Target, told: Mapping[str, Any]) -> Score:
    nothing = functools.partial(compile, "", "", "exec")
    listed = {
        kind: tuple(
            Mutant(file, line, before, after, function, nothing)
            for file, line, before, after, function in told[kind]
        )
        for kind in ("survivors", "uncovered")
    }
    return Score(target, told["tests"], told["mutants"], listed["survivors"], listed["uncovered"], told["on"])


def _told_of(found: Score) -> dict[str, Any]:
    return {
        "tests": found.tests,
        "mutants": found.mutants,
        "survivors": [[m.file, m.line, m.before, m.after, m.function] for m in found.survivors],
        "uncovered": [[m.file, m.line, m.before, m.after, m.function] for m in found.uncovered],
        "on": found.on,
    }


def _keep(file: str, found: Score) -> None:
    """Write down what came of a file, so that files can be run one at a time."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept[file] = _told_of(found)
    KEPT.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def _kept() -> list[Score]:
    """Return the last run of each target of which every file was run whole."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return [
        _whole(target, [_score(target, kept[file]) for file in target.files])
        for target in TARGETS
        if all(file in kept for file in target.files)
    ]


def _line(found: Score) -> str:
    return (
        f"{found.target.name}: {found.mutants} mutants, {found.share:.1%} noticed by {found.tests} tests, "
        f"{len(found.unexplained)} without a reason"
    )


def _page(scores: Sequence[Score]) -> str:
    rows: list[list[object]] = [
        [
            f"`{found.target.name}`",
            found.target.why,
            found.mutants,
            found.tests,
            f"{found.share:.1%}",
            len(found.alive) - len(found.unexplained),
            len(found.unexplained),
            found.on,
        ]
        for found in scores
    ]
    total = sum(found.mutants for found in scores)
    alive = sum(len(found.alive) for found in scores)
    missed = sum(len(found.unexplained) for found in scores)
    reasons = Counter(
        why for key, why in explained().items() if any(key == each.key for f in scores for each in f.alive)
    )
    left = [f"`{each.name}`" for each in TARGETS if each.name not in {f.target.name for f in scores}]
    unscored = f"Not completely run yet: {', '.join(left)}.\n\n" if left else ""
    listed = "\n".join(f"- {n} x {why}" for why, n in reasons.most_common())
    return f"""# Mutation score

Everything else relies on the checkers, so their tests are tested: `make mutate` changes one thing at a time in the
checkers and in the code that they guard, and looks whether a test fails. It also writes this page.

Tests notice {1 - alive / total:.1%} of {total:,} mutants. Of the others, {alive - missed} have a reason in
`benchmarks/survivors.toml`, and {missed} have none.

{table(["code", "purpose", "mutants", "tests", "noticed", "with a reason", "without", "run on"], rows)}
{unscored}Reasons:

{listed}

"run on" is the day by which all mutants of that code were run, `python -m benchmarks.mutation NAME`; with several
files, the oldest of their days.

{stamp()}
"""


if __name__ == "__main__":
    main()
