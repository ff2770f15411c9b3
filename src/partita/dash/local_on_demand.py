"""Answers on demand for the cluster of a state folder: from its journal, its queue, its ledger and its workload.

What is applied is applied by `partita apply`, in a process of its own that outlives this one: the same controller,
checker and lock as for everybody else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from partita.control.cluster_view import snapshot
from partita.control.journal import FILE, Journal, State, holder
from partita.dash import energy as energies
from partita.dash import jobs as queue
from partita.dash import plans, transitions
from partita.dash.model import Accepted, Explanation, Part, WhatIf
from partita.dash.on_demand import OnDemand
from partita.dash.refusal import RequestFault, required_plan
from partita.dash.searches import Searches, SupersededError, WorkloadFile
from partita.documents.text import line
from partita.drive.state import VARIABLE
from partita.errors import InfeasibleError, PartitaError
from partita.files import replacing
from partita.jobs.energy import FILE as LEDGER
from partita.jobs.energy import EnergyLedger
from partita.jobs.queue.client import FILE as SOCKET
from partita.jobs.queue.client import QueueClient
from partita.jobs.queue.folders import jobs_folder
from partita.planning.document import parse_plan
from partita.transition.transition import MEASURED
from partita.workload import read_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from threading import Lock

    from partita.control.goal import Goal
    from partita.control.journal import GoalRecord
    from partita.dash.local import LocalSource
    from partita.dash.model import (
        Apply,
        Difference,
        Energy,
        Job,
        JobLog,
        JobPage,
        PlanSummary,
        PoolWhatIf,
        ServiceWhatIf,
        Submit,
        TransitionDetail,
        TransitionPage,
        WhatIfAnswer,
        WhatIfInputs,
        WorkloadChange,
    )
    from partita.drive.driver import Observation
    from partita.workload import Workload

T = TypeVar("T")

_PATIENCE_S = 5.0
"""How long the queue may take to answer."""

_BEGIN_S = 60.0
"""How long a process that applies a plan may take until it begins or ends."""

_PAUSE_S = 0.05
_RECENT_S = 180.0
"""Over how long the watts now are taken."""

_KEPT_PLANS = 20
WHO = "the dashboard"

_APPLIES = "apply"
"""The client of searches for what is applied."""


class LocalOnDemand(OnDemand):
    """Answers for the cluster of a state folder.

    Args:
        source: the cluster as it is seen.
        driver: name of its driver.
        lock: held while the source is asked.
    """

    def __init__(self, source: LocalSource, driver: str, lock: Lock) -> None:
        super().__init__(lock)
        self._source = source
        self._driver = driver
        self._folder = source.folder
        self._journal: tuple[tuple[int, int], Journal] | None = None
        self._workload: tuple[tuple[int, int], Workload] | None = None
        # The last answers and what they were made of: for ten thousand GPUs they take seconds.
        self._plan: tuple[Goal, Workload | None, PlanSummary] | None = None
        self._difference: tuple[Goal, bool, str, Difference] | None = None
        self._transition: tuple[Journal, tuple[object, ...], TransitionDetail | None] | None = None
        self._file = None if source.workload_file is None else WorkloadFile(source.workload_file)
        self._searches = Searches()
        # The plans that what-ifs showed with their documents, by what was asked: they are what is applied.
        self._shown: dict[str, tuple[Workload, Mapping[str, object]]] = {}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the API that there are now."""
        jobs = jobs_folder(self._folder)
        found = [Part.PLAN, Part.TRANSITIONS]
        if (jobs / SOCKET).exists():
            found += (Part.JOBS, Part.SUBMIT)
        if (self._folder / LEDGER).exists():
            found.append(Part.ENERGY)
        if self._file is not None:
            found.append(Part.WHAT_IF)
        return tuple(found)

    def close(self) -> None:
        """End the process that searches; what is being applied goes on."""
        self._searches.close()

    # Plans and transitions

    def plan(self, workload: str) -> PlanSummary | None:
        """Return the plan that was applied last; None if none was."""
        self._require_named(workload)
        journal = self._opened()
        progress = None if journal is None else journal.progress()
        if progress is None:
            return None
        goal, read = progress.goal, self._read_workload()
        known = self._plan
        if known is None or known[0] is not goal or known[1] is not read:
            slos = {} if read is None else {each.name: each.slo.latency_ms for each in read.services}
            made = plans.applied(goal, slos, {} if read is None else plans.prices_of(read))
            known = self._plan = goal, read, made
        return known[2]

    def difference(self, workload: str) -> Difference | None:
        """Return what lies between what runs and that plan; None if none was applied."""
        self._require_named(workload)
        journal = self._opened()
        progress = None if journal is None else journal.progress()
        if progress is None:
            return None
        goal, reached = progress.goal, progress.state is State.REACHED
        seen = self._observation()
        state, known = snapshot(seen).fingerprint, self._difference
        if known is None or known[:3] != (goal, reached, state):
            found = _feasible(lambda: plans.difference(goal, seen, MEASURED, reached=reached))
            known = self._difference = goal, reached, state, found
        return known[3]

    def difference_to(self, asked: Apply, workload: str) -> Difference:
        """Return what lies between what runs and another plan."""
        self._require_named(workload)
        seen, journal = self._observation(), self._opened()
        return _feasible(lambda: plans.difference_to(required_plan(asked), journal, seen, MEASURED))

    def transitions(self, after: str | None, limit: int) -> TransitionPage:
        """Return a page of transitions, newest first."""
        return transitions.transitions(self._opened(), after, limit)

    def transition(self, number: str) -> TransitionDetail | None:
        """Return a transition in full; None if there is none of that id."""
        journal, kept = self._opened(), self._transition
        if journal is None:
            return None
        seen = number, journal.version()
        if kept is not None and kept[0] is journal and kept[1] == seen:
            return kept[2]  # its next page is asked for
        found = transitions.transition(journal, number)
        self._transition = journal, seen, found
        return found

    # Jobs and energy

    def jobs(self, after: str | None, limit: int, state: str, q: str) -> JobPage:
        """Return a page of jobs."""
        return self._ask(lambda daemon: queue.jobs(daemon, after, limit, state, q))

    def job(self, number: str) -> Job:
        """Return a job with its attempts."""
        return self._ask(lambda daemon: queue.job(daemon, number))

    def log(self, number: str, after: int, attempt: int | None) -> JobLog:
        """Return what a job wrote from a byte on."""
        return self._ask(lambda daemon: queue.log(daemon, number, after, attempt))

    def submit(self, asked: Submit) -> Accepted:
        """Submit a job."""
        return Accepted(*self._ask(lambda daemon: queue.submit(daemon, asked)))

    def cancel(self, number: str) -> Accepted:
        """Cancel a job."""
        return Accepted(number, self._ask(lambda daemon: queue.cancel(daemon, number)))

    def energy(self, since: float, gpu: str | None = None) -> Energy:
        """Return energy and cost since a time, in seconds since 1970, of a GPU or (None) of all."""
        workload = self._read_workload()
        models = {gpu.id: gpu.model for gpu in self._observation().gpus}
        with closing(EnergyLedger(self._folder / LEDGER, read_only=True)) as ledger:
            newest = max((each.at for each in ledger.counters().values()), default=0.0)
            return energies.energy(
                [each for each in ledger.since(since) if gpu in (None, each.gpu)],
                [each for each in ledger.since(newest - _RECENT_S) if gpu in (None, each.gpu)],
                models,
                {} if workload is None else plans.prices_of(workload),
                since,
            )

    def _ask(self, ask: Callable[[QueueClient], T]) -> T:
        with QueueClient(jobs_folder(self._folder), _PATIENCE_S) as daemon:
            return ask(daemon)

    # Searches

    def explain(self, service: str) -> Explanation:
        """Explain a service of the plan that was applied last."""
        journal = self._opened()
        progress = None if journal is None else journal.progress()
        if progress is None:
            raise RequestFault(404, "no plan was applied", hint="apply one: `partita apply plan.json`")
        made = plans.plan_of(progress.goal, {})
        return Explanation(service, self._searches.explain(self._asked_workload(), service, made))

    def what_if_inputs(self, workload: str) -> WhatIfInputs:
        """Return what a what-if may change, as it is; the first what-if follows soon, so its process is started."""
        self._require_named(workload)
        read, asked = self._read_workload(), self._asked_workload()
        if read is None:
            raise _no_workload()
        self._searches.warm(asked)
        return plans.inputs(read)

    def what_if(self, asked: WhatIf) -> WhatIfAnswer:
        """Answer a what-if."""
        self._require_named(asked.workload)
        journal = self._opened()
        progress = None if journal is None else journal.progress()
        applied = None
        if progress is not None:
            applied = Counter(gpu.model for gpu in progress.goal.target.gpus if gpu.instances)
        try:
            read = self._read_workload()
            answer = self._searches.what_if(self._asked_workload(), asked, applied)
            if read is not None and answer.plan is not None and answer.plan.document:
                self._shown[_key(asked.services, asked.pools)] = read, answer.plan.document
                for oldest in list(self._shown)[:-_KEPT_PLANS]:
                    del self._shown[oldest]
            return answer
        except SupersededError as error:
            raise RequestFault(409, error.what, hint="its answer is on the way") from None

    def _asked_workload(self) -> WorkloadFile:
        if self._file is None:
            raise _no_workload()
        return self._file

    def _require_named(self, workload: str) -> None:
        if workload not in ("", self._source.workload):
            raise RequestFault(
                404,
                f"there is no workload {workload!r}",
                where="workload",
                hint="leave it out: there is one alone",
            )

    # What changes the cluster

    def apply(self, asked: Apply, state: str) -> Accepted:
        """Begin to apply a plan with `partita apply`, if the cluster is in a state."""
        document = self._plan_of(asked.change) if asked.change is not None else required_plan(asked)
        plan = parse_plan(json.dumps(document), "plan")  # refused before a process is started
        acting = holder(self._folder)
        if acting is not None:
            raise RequestFault(
                409,
                f"another controller acts on this cluster: {acting}",
                hint="wait until it has ended; `partita run` keeps to its workload's file: write the change there",
            )
        path = self._written(document, plans.version_of(plan))
        before = self._newest()
        command = [sys.executable, "-m", "partita", "apply", str(path), "--yes", "--expect", state]
        with path.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 -- ourselves
                [*command, "--driver", self._driver],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, VARIABLE: str(self._folder)},
            )
        Thread(target=process.wait, daemon=True).start()  # so that it leaves no zombie
        return self._begun(process, before, path.with_suffix(".log"))

    def _plan_of(self, change: WorkloadChange) -> Mapping[str, object]:
        """Return the plan's document of a change: that which a what-if showed, or one that is searched for now.

        Raises:
            RequestFault: the GPUs do not suffice, or there is no such change.
        """
        self._require_named(change.workload)
        if not change.services and not change.pools:
            raise RequestFault(422, "nothing is to be changed", where="change", hint="name services or pools")
        shown = self._shown.get(_key(change.services, change.pools))
        if shown is not None and shown[0] == self._read_workload():
            return shown[1]
        asked = WhatIf(change.services, change.pools, document=True, client=_APPLIES)
        answer = self.what_if(asked)
        if answer.plan is None:
            raise RequestFault(
                409,
                answer.why or "no plan was found in time",
                where="change",
                hint="ask for less, or for more GPUs",
            )
        return answer.plan.document

    def _begun(self, process: subprocess.Popen[bytes], before: int, log: Path) -> Accepted:
        """Return once the process has begun to apply; refuse what it refused."""
        end = time.monotonic() + _BEGIN_S
        while time.monotonic() < end:
            code = process.poll()
            newest = self._newest_with(log.with_suffix(".json").name)
            if newest > before:  # and not that of somebody who applies another plan just now
                return Accepted(str(newest), f"transition {newest} has begun")
            if code is not None:
                raise _refused(code, log.read_text(encoding="utf-8", errors="replace"))
            time.sleep(_PAUSE_S)
        raise RequestFault(
            503, f"it has not begun within {_BEGIN_S:g} s", where=str(log), hint="read its log"
        )

    def _written(self, document: Mapping[str, object], version: str) -> Path:
        """Write a plan to a file of the state folder, and remove the oldest of those before it."""
        folder = self._folder / "dash"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise RequestFault(
                503,
                f"the plan cannot be kept: {error.strerror}",
                where=str(folder),
                hint="plans are applied by a `partita dash` of the state folder's owner",
            ) from None
        path = folder / f"plan-{version}.json"
        with replacing(path) as stream:
            json.dump(document, stream)
        files = sorted(folder.glob("plan-*.json"), key=lambda each: each.stat().st_mtime)
        for old in files[:-_KEPT_PLANS]:
            for each in (old, old.with_suffix(".log")):
                with suppress(OSError):
                    each.unlink()
        return path

    def approve(self, number: str) -> Accepted:
        """Refuse: on a host nothing waits for approval."""
        raise RequestFault(409, f"transition {number} waits for no approval", hint="pause it to hold it back")

    def pause(self, number: str) -> Accepted:
        """Have no further action of a transition begin."""
        goal = self._in_progress(number)
        with closing(Journal(self._folder / FILE)) as journal:
            journal.pause(WHO, self._now())
        return Accepted(str(goal.id), "what is in progress ends, and nothing begins")

    def resume(self, number: str) -> Accepted:
        """End the pause of a transition."""
        goal = self._in_progress(number)
        with closing(Journal(self._folder / FILE)) as journal:
            journal.resume(WHO, self._now())
        going = holder(self._folder) is not None
        text = "it goes on" if going else f"no process carries it out: go on with `{goal.command}`"
        return Accepted(str(goal.id), text)

    def _in_progress(self, number: str) -> GoalRecord:
        journal = self._opened()
        newest = [] if journal is None else journal.goals(1)
        if not newest or str(newest[0].id) != number or newest[0].ended is not None:
            raise RequestFault(409, f"transition {number} is not in progress", hint="look again")
        return newest[0]

    def _now(self) -> float:
        """Return the cluster's clock: that of the newest entry of the journal on a simulated one."""
        with self.lock:
            return self._source.now

    # What answers are made of

    def _observation(self) -> Observation:
        """Return the cluster as those see it who change services: what jobs hold is not to be destroyed."""
        with self.lock:
            return self._source.seen_by_services

    def _newest(self) -> int:
        journal = self._opened()
        newest = [] if journal is None else journal.goals(1)
        return newest[0].id if newest else 0

    def _newest_with(self, text: str) -> int:
        """Return the newest goal whose command has a text; 0 if the newest is none."""
        journal = self._opened()
        newest = [] if journal is None else journal.goals(1)
        return newest[0].id if newest and text in newest[0].command else 0

    def _opened(self) -> Journal | None:
        """Return the journal that is there now; None where there is none."""
        path = self._folder / FILE
        try:
            status = path.stat()
        except OSError:
            return None
        identity = (status.st_dev, status.st_ino)
        if self._journal is None or self._journal[0] != identity:
            self._journal = identity, Journal(path, read_only=True)
        return self._journal[1]

    def _read_workload(self) -> Workload | None:
        """Return the workload as its file has it now; None where there is none."""
        path = self._source.workload_file
        if path is None:
            return None
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if self._workload is None or self._workload[0] != stamp:
                self._workload = stamp, read_workload(path)
        except (OSError, PartitaError):
            if self._workload is None:
                raise
        return self._workload[1]


def _key(services: Mapping[str, ServiceWhatIf], pools: Mapping[str, PoolWhatIf]) -> str:
    """Return the text that stands for a change."""
    return line({"services": dict(sorted(services.items())), "pools": dict(sorted(pools.items()))})


def _no_workload() -> RequestFault:
    return RequestFault(
        404, "no workload is known here", hint="start with it: `partita dash -f workload.yaml`"
    )


def _feasible(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except InfeasibleError as error:
        raise RequestFault(409, error.what, where=error.where, hint=error.hint) from None


_STATUS = {2: 422, 4: 409, 5: 412}


def _refused(code: int, log: str) -> RequestFault:
    """Return the fault for a process that ended without having begun."""
    lines = [line for line in log.splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "")
    hint = next((line for line in lines if line.strip().startswith("hint:")), "")
    return RequestFault(
        _STATUS.get(code, 409 if "controller acts" in log else 503),
        said.removeprefix("error:").strip() or f"it ended with exit code {code}",
        hint=hint.strip().removeprefix("hint:").strip() or None,
    )
