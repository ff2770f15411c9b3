"""What-ifs and explanations of a controller's Workloads, on the GPUs that each has now, in a process of their own."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from partita.control.cluster_view import deployed
from partita.control.reconciler import free_gpus
from partita.control.sharing import without
from partita.dash.model import Explanation
from partita.dash.plans import inputs
from partita.dash.refusal import RequestFault
from partita.dash.searches import Searches, SupersededError
from partita.errors import nearest
from partita.kubernetes.dash_changes import newest_plan
from partita.kubernetes.resources import plan_of
from partita.planner import PreparedWorkload, pool_counts, prepare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.dash.model import WhatIf, WhatIfAnswer, WhatIfInputs
    from partita.kubernetes.controller import ClusterController
    from partita.kubernetes.workload_keeper import WorkloadKeeper
    from partita.kubernetes.workload_session import LoadedWorkload
    from partita.planning.plan import Plan
    from partita.workload import Workload


class WorkloadNow:
    """A Workload at its rates and on its GPUs of now, as searches are told of it.

    Args:
        words: the command that plans it as it is.
        document: fingerprint of its spec and tables.
        prepared: it, as its spec has it.
        workload: it, with the rates of now.
        gpus: those that it may use now, by model.
    """

    def __init__(
        self,
        words: tuple[str, ...],
        document: str,
        prepared: PreparedWorkload,
        workload: Workload,
        gpus: Mapping[str, int],
    ) -> None:
        rates = {each.name: each.rate for each in workload.services}
        digest = hashlib.sha256(msgspec.json.encode([words, document, rates, gpus], order="sorted"))
        self._version = digest.hexdigest()
        self._words = words
        self._given = prepared
        self._workload = workload
        self._gpus = dict(gpus)
        self._made: PreparedWorkload | None = None

    @property
    def version(self) -> str:
        """A fingerprint of all of it."""
        return self._version

    @property
    def words(self) -> tuple[str, ...]:
        """The command that plans it as it is."""
        return self._words

    def prepared(self) -> PreparedWorkload:
        """Return it prepared to be planned.

        Raises:
            InfeasibleError: too few of a service's queries can be answered in time.
        """
        if self._made is None:
            made = self._given
            if self._workload != made.workload:
                made = prepare(self._workload, made.table, like=made)
            self._made = made.on(self._gpus)
        return self._made


@dataclass(frozen=True, slots=True)
class _Asked:
    """A Workload that is asked about: its name, and it as it is now.

    Attributes:
        key: namespace and name.
    """

    key: tuple[str, str]
    loaded: LoadedWorkload
    workload: Workload
    gpus: Mapping[str, int]

    @property
    def name(self) -> str:
        """Its name among all Workloads."""
        return "/".join(self.key)

    @property
    def now(self) -> WorkloadNow:
        """It as searches are told of it."""
        words = ("kubectl", "partita", "plan", self.key[1], "--namespace", self.key[0])
        return WorkloadNow(words, self.loaded.document, self.loaded.prepared, self.workload, self.gpus)


class ControllerSearches:
    """Answers what-ifs and explains services. Methods may be called from any thread, and block.

    Args:
        controller: it may begin to lead, or cease to, at any time.
    """

    def __init__(self, controller: ClusterController) -> None:
        self._controller = controller
        self._searches = Searches()

    def inputs(self, name: str) -> WhatIfInputs:
        """Return what a what-if may change of a Workload, or of the first; start the process, as one follows soon.

        Raises:
            RequestFault: there is none of that name, or it is not accepted.
        """
        names = self._names()
        asked = self._asked(name or next(iter(names), ""))
        self._searches.warm(asked.now)
        counts = pool_counts(asked.loaded.prepared.problem.pools, asked.gpus)
        return inputs(asked.workload, counts, name=asked.name, of=names)

    def what_if(self, asked: WhatIf) -> WhatIfAnswer:
        """Answer a what-if of the Workload that it names; it need not name the only one.

        Raises:
            RequestFault: it does not say which of several it is about, or asks again meanwhile.
            PartitaError: as `Searches.what_if`.
        """
        names = self._names()
        if not asked.workload and len(names) > 1:
            raise RequestFault(
                422, "there are several Workloads", where="workload", hint=f"name one: {', '.join(names[:5])}"
            )
        of = self._asked(asked.workload or next(iter(names), ""))
        made = self._plan(of.key)
        applied = None
        if made is not None:
            applied = Counter(gpu.model for gpu in made.gpus if gpu.instances)
        try:
            return self._searches.what_if(of.now, asked, applied)
        except SupersededError as error:
            raise RequestFault(409, error.what, hint="its answer is on the way") from None

    def explain(self, service: str) -> Explanation:
        """Explain a service by its Workload's newest Plan; of two Workloads that have it, the later name counts.

        Raises:
            RequestFault: no Workload has it, or that has no Plan.
            PartitaError: as `Searches.explain`.
        """
        known: list[str] = []
        key = None
        for each, keeper in sorted(dict(self._controller.keepers).items()):
            loaded = keeper.loaded
            names = [] if loaded is None else [spec.name for spec in loaded.spec.services]
            known += names
            key = each if service in names else key
        if key is None:
            close = nearest(service, known)
            hint = f"did you mean {close}?" if close else "GET /api/v1/services lists them"
            raise RequestFault(404, f"no Workload has a service {service!r}", where="name", hint=hint)
        asked, made = self._asked("/".join(key)), self._plan(key)
        if made is None:
            raise RequestFault(
                409, f"Workload {asked.name} has no Plan yet", hint="ask again when it is planned"
            )
        return Explanation(service, self._searches.explain(asked.now, service, made))

    def close(self) -> None:
        """End the process that searches."""
        self._searches.close()

    def _names(self) -> tuple[str, ...]:
        return tuple("/".join(key) for key in sorted(dict(self._controller.keepers)))

    def _asked(self, name: str) -> _Asked:
        """Return a Workload as it is now.

        Raises:
            RequestFault: there is none of that name, or it is not accepted.
        """
        namespace, _, called = name.partition("/")
        keeper = self._controller.keepers.get((namespace, called))
        if keeper is None:
            what = f"there is no Workload {name!r}" if name else "this controller has no Workload"
            hint = "`kubectl get workloads --all-namespaces` lists them"
            raise RequestFault(404, what, where="workload", hint=hint)
        loaded, facts = keeper.loaded, keeper.facts
        if loaded is None or facts is None:
            hint = f"see why: `kubectl describe workload {called} --namespace {namespace}`"
            raise RequestFault(409, f"Workload {name} is not accepted yet", where="workload", hint=hint)
        held = () if keeper.jobs is None else keeper.jobs.holds()
        gpus = free_gpus(deployed(without(facts.observation, held)))
        return _Asked((namespace, called), loaded, _at_rates(loaded, keeper), gpus)

    def _plan(self, key: tuple[str, str]) -> Plan | None:
        """Return the newest Plan of a Workload; None if it has none."""
        newest = newest_plan(self._controller, key)
        return None if newest is None else plan_of(newest.spec)


def _at_rates(loaded: LoadedWorkload, keeper: WorkloadKeeper) -> Workload:
    """Return a Workload at the rates that it is planned for, which are measured where it says so."""
    spec, facts = loaded.spec, keeper.facts
    if spec.rates is None or facts is None:
        return spec
    now = {name: each.required for name, each in facts.services.items() if each.required > 0.0}
    return spec.replace(
        services=tuple(each.replace(rate=now.get(each.name, each.rate)) for each in spec.services)
    )
