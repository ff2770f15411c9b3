"""Carries out one transition: begins what may begin, side by side, and stops where someone else interferes."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Protocol

from partita.drive.driver import Changes, GpuLostError, Observation, ObservesChanges
from partita.errors import PartitaError
from partita.transition.deployment import DeployedGpu, DeployedInstance, Deployment
from partita.transition.transition import ActionKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Iterator, Mapping

    from partita.control.journal import Journal
    from partita.drive.driver import (
        ActionResult,
        DriveError,
        Driver,
        ObservedGpu,
        ObservedInstance,
    )
    from partita.transition.deployment import Replica
    from partita.transition.transition import Action, Transition


@dataclass(frozen=True, slots=True)
class Difference:
    """What two looks saw of the GPUs that may have changed between them.

    Attributes:
        gpus: ids of those GPUs; the snapshots are of them alone.
    """

    gpus: frozenset[str]
    before: Snapshot
    now: Snapshot


class ClusterView:
    """The cluster as it was when it was last looked at.

    A look costs as much as has changed, where the driver can say what that is, and as much as the whole cluster
    where it cannot.

    Args:
        driver: is asked.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._gpus: dict[str, ObservedGpu] = {}
        self._mark: object | None = None

    def look(self, touched: Collection[str] = ()) -> Difference:
        """See what has changed since the last look; at the first one, everything has.

        Args:
            touched: ids of GPUs on which actions have ended since then.

        Raises:
            DriveError: the cluster cannot be observed.
        """
        seen = changes(self._driver, self._mark, touched)
        self._mark = seen.mark
        ids = frozenset([*(gpu.id for gpu in seen.gpus), *seen.gone])
        was = tuple(self._gpus[name] for name in ids if name in self._gpus)
        for name in seen.gone:
            self._gpus.pop(name, None)
        self._gpus.update((gpu.id, gpu) for gpu in seen.gpus)
        return Difference(ids, snapshot(Observation(was)), snapshot(Observation(seen.gpus)))

    def gpu(self, gpu_id: str) -> ObservedGpu | None:
        """Return the GPU of that id, None if there is none."""
        return self._gpus.get(gpu_id)

    @property
    def observation(self) -> Observation:
        """The whole cluster."""
        return Observation(tuple(self._gpus.values()))


def changes(driver: Driver, mark: object | None, touched: Collection[str]) -> Changes:
    """Return what has changed by any driver: of one that cannot say, all GPUs count as changed.

    Args:
        driver: is asked.
        mark: of the last look, None for the first.
        touched: ids of GPUs on which actions have ended since then.

    Raises:
        DriveError: the cluster cannot be observed.
    """
    if isinstance(driver, ObservesChanges):
        return driver.observe_changes(mark, touched)
    gpus = driver.observe().gpus
    there = frozenset(gpu.id for gpu in gpus)
    return Changes(there, gpus, tuple(mark - there) if isinstance(mark, frozenset) else ())


Key = tuple[str, str]
"""A GPU's id and a placement as text."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What was seen of one instance.

    Attributes:
        mig_uuid: changes at a re-creation with other ids; None while there is no compute instance.
        serves: the replica that answers queries, in words.
        settling: a replica that is not ready yet or drains, and so will change by itself.
    """

    ours: bool
    busy: bool
    mig_uuid: str | None
    serves: str | None
    settling: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen of a cluster: each GPU's condition and each instance."""

    gpus: Mapping[str, str]
    instances: Mapping[Key, Fact]

    @property
    def fingerprint(self) -> str:
        """Twelve digits that change when anything does that a transition depends on."""
        rows = sorted([key, astuple(fact)] for key, fact in self.instances.items())
        text = json.dumps([sorted(self.gpus.items()), rows])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def snapshot(observation: Observation) -> Snapshot:
    """Return what there is to remember of an observation."""
    return Snapshot(
        {gpu.id: _condition(gpu) for gpu in observation.gpus},
        {(gpu.id, str(each.placement)): _fact(each) for gpu in observation.gpus for each in gpu.instances},
    )


def key_of(action: Action) -> Key:
    """Return the instance that an action is about."""
    return action.gpu, str(action.placement)


def words(replica: Replica) -> str:
    """Return a replica in words that tell it from any other: `resnet50 batch 8`, `bert batch 4 x2`."""
    processes = f" x{replica.processes}" if replica.processes > 1 else ""
    return f"{replica.service} batch {replica.batch}{processes}"


def _condition(gpu: ObservedGpu) -> str:
    return "lost" if gpu.lost else "ready" if gpu.mig else "MIG mode off"


def _fact(instance: ObservedInstance) -> Fact:
    runs = serving(instance)
    return Fact(
        instance.ours,
        instance.busy,
        instance.identity.mig_uuid,
        None if runs is None else words(runs),
        settling=instance.replica is not None and runs is None,
    )


def moved(before: Snapshot, now: Snapshot, ours: Mapping[Key, Action | None] | None = None) -> list[str]:
    """Return, in words, what someone else has changed.

    Args:
        before: the cluster as it was.
        now: the cluster as it is.
        ours: instances that this controller worked on meanwhile: the action that ended well, or None where it
            is under way or failed, so that anything but another's hand may be found.
    """
    mine = ours or {}
    return [*_gpus_moved(before, now), *_instances_moved(before, now, mine)]


def _gpus_moved(before: Snapshot, now: Snapshot) -> Iterator[str]:
    for gpu in sorted(before.gpus.keys() | now.gpus.keys()):
        was, found = before.gpus.get(gpu), now.gpus.get(gpu)
        if was != found:
            yield f"{gpu}: " + ("is new" if was is None else f"is {found or 'not there any more'}")


def _instances_moved(before: Snapshot, now: Snapshot, mine: Mapping[Key, Action | None]) -> Iterator[str]:
    for key in sorted(before.instances.keys() | now.instances.keys() | mine.keys()):
        if now.gpus.get(key[0]) != "ready":
            continue  # the GPU itself was told
        was, found = before.instances.get(key), now.instances.get(key)
        why = _own_undone(mine[key], found) if key in mine else _changed(was, found)
        if why:
            yield f"{key[0]}: {key[1]} {why}"


def _own_undone(action: Action | None, found: Fact | None) -> str | None:
    """Say what has become of an instance that we worked on, None for what we meant or may have left."""
    if found is not None and (not found.ours or found.busy):
        return "was taken by someone else"
    if action is None:
        return None
    wanted = None if action.replica is None else words(action.replica)
    match action.kind:
        case ActionKind.DESTROY_INSTANCE:
            return None if found is None else "is there again"
        case ActionKind.START_REPLICA:
            return None if found and found.serves == wanted else f"does not run {wanted} any more"
        case ActionKind.CREATE_INSTANCE | ActionKind.STOP_REPLICA:
            return "is gone" if found is None or found.mig_uuid is None else None


def _changed(was: Fact | None, found: Fact | None) -> str | None:
    if was is None or found is None:
        return None if was == found else "is new" if was is None else "is gone"
    if (was.ours, was.busy) != (found.ours, found.busy):
        return _whose(found)
    if was.mig_uuid != found.mig_uuid:
        return "was made anew"
    if was.settling or (was.serves == found.serves and not found.settling):
        return None
    return f"does not run {was.serves} any more" if was.serves else "runs something new"


def _whose(found: Fact) -> str:
    if found.busy:
        return "is in use by someone else's process"
    return "is ours now" if found.ours else "is someone else's"


def deployed(observation: Observation) -> Deployment:
    """Return what runs, on the GPUs that can be used.

    A replica counts if it is ready and does not drain. An instance that is someone else's, or that someone
    else's process runs on, is fixed. GPUs that are lost or not in MIG mode are left out.
    """
    return Deployment(tuple(_gpu(gpu) for gpu in observation.gpus if usable(gpu)))


def usable(gpu: ObservedGpu) -> bool:
    """Say whether a GPU answers and can be cut."""
    return gpu.mig and not gpu.lost


def serving(instance: ObservedInstance) -> Replica | None:
    """Return the replica that answers queries on an instance, None if none does."""
    found = instance.replica
    return found.replica if found is not None and found.ready and not found.draining else None


def _gpu(gpu: ObservedGpu) -> DeployedGpu:
    return DeployedGpu(
        gpu.id, gpu.model, tuple(map(_instance, sorted(gpu.instances, key=lambda i: i.placement)))
    )


def _instance(instance: ObservedInstance) -> DeployedInstance:
    if not instance.ours or instance.busy:
        return DeployedInstance(instance.placement, None, fixed=True)
    return DeployedInstance(instance.placement, serving(instance))


class Gpus(Protocol):
    """A cluster as it was observed."""

    def gpu(self, gpu_id: str) -> ObservedGpu | None:
        """Return the GPU of that id, None if there is none."""
        ...


def next_step(action: Action, cluster: Gpus) -> Action | None:
    """Return the action itself, another one that must come before it, or None if its effect is there already.

    What a killed controller or a failed try left behind is cleared away first: a replica that is not ready or
    drains is stopped, an instance without its compute instance is completed. Neither counts towards a
    service's capacity, so no floor depends on it.
    """
    found = _found(action, cluster)
    match action.kind:
        case ActionKind.CREATE_INSTANCE:
            return None if found is not None and found.ours and found.complete else action
        case ActionKind.DESTROY_INSTANCE:
            return None if found is None else _clear(action, found) or action
        case ActionKind.STOP_REPLICA:
            return None if found is None or found.replica is None else action
        case ActionKind.START_REPLICA:
            return _start(action, found)


def _start(action: Action, found: ObservedInstance | None) -> Action | None:
    if found is None:
        return action  # the driver says what is wrong
    if not found.complete:
        return _before(action, ActionKind.CREATE_INSTANCE)
    if found.replica is None:
        return action
    if serving(found) == action.replica:
        return None
    if found.replica.replica == action.replica and not found.replica.draining:
        return action  # it goes on becoming ready
    return _clear(action, found)


def restart(action: Action, cluster: Gpus) -> Action | None:
    """Return what must come before an action that has failed is tried again, None if nothing.

    A replica that was not ready in time is stopped: to wait for it once more would be no new try.
    """
    found = _found(action, cluster)
    if action.kind is ActionKind.START_REPLICA and found is not None and serving(found) != action.replica:
        return _clear(action, found)
    return None


def _clear(action: Action, found: ObservedInstance) -> Action | None:
    """Return the stop of a replica that is in the way."""
    if found.replica is None or not found.ours:
        return None
    return replace(_before(action, ActionKind.STOP_REPLICA), replica=found.replica.replica)


def _before(action: Action, kind: ActionKind) -> Action:
    return replace(action, id=f"{action.id}/{kind.value}", kind=kind, replica=None, after=())


def _found(action: Action, cluster: Gpus) -> ObservedInstance | None:
    gpu = cluster.gpu(action.gpu)
    return next((each for each in gpu.instances if each.placement == action.placement), None) if gpu else None


class Schedule:
    """The course of one transition. It decides and acts on nothing itself.

    Args:
        transition: what is carried out.
        backoff: how often a failed action is tried again.
        rng: for the jitter of waits.
    """

    def __init__(self, transition: Transition, backoff: Backoff, rng: random.Random) -> None:
        self._backoff = backoff
        self._rng = rng
        self._actions = {action.id: action for action in transition.actions}
        self._waits = {action.id: len(set(action.after)) for action in transition.actions}
        self._followers: dict[str, list[str]] = defaultdict(list)
        for action in transition.actions:
            for earlier in set(action.after):
                self._followers[earlier].append(action.id)
        self._free = {name: 0.0 for name, n in self._waits.items() if n == 0}  # -> when it may begin
        self._failures: dict[str, int] = defaultdict(int)
        self.under_way: dict[str, Action] = {}
        self._worked_on: dict[str, dict[str, Key]] = defaultdict(dict)  # GPU -> action's id -> instance
        self.done = 0

    @property
    def total(self) -> int:
        """Actions of the transition."""
        return len(self._actions)

    @property
    def over(self) -> bool:
        """Whether all has ended well."""
        return self.done == self.total

    def begin(self, cluster: Gpus, now: float) -> list[Action]:
        """Return what is to begin now, and count it as under way.

        What is found done already is counted as done, and what comes after it considered at once.
        """
        found = []
        pending = deque(name for name, at in self._free.items() if at <= now)
        while pending:
            name = pending.popleft()
            action = self._actions[name]
            before = restart(action, cluster) if self._failures[name] else None
            step = before or next_step(action, cluster)
            del self._free[name]
            if step is None:
                pending += self._end(name)
            else:
                self.under_way[name] = step
                self._worked_on[step.gpu][name] = key_of(step)
                found.append(step)
        return found

    def end(self, ended: ActionResult, now: float) -> DriveError | None:
        """Take note of how an action ended; return its error if it is not to be tried again."""
        name = ended.action.id.partition("/")[0]
        del self._worked_on[self.under_way.pop(name).gpu][name]
        if ended.error is None:
            if ended.action.id == name:
                self._end(name)
            else:
                self._free[name] = now  # what was in the way is gone
            return None
        self._failures[name] += 1
        if not ended.error.retry or self._failures[name] >= self._backoff.tries:
            return ended.error
        self._free[name] = now + self._backoff.delay(self._failures[name], self._rng)
        return None

    def failures(self, action: Action) -> int:
        """Return how often an action has failed."""
        return self._failures[action.id.partition("/")[0]]

    @property
    def next_try(self) -> float | None:
        """When the next of the actions that failed may begin again, None if none waits."""
        return min(self._free.values(), default=None)

    def worked_on(
        self, ended: tuple[ActionResult, ...], gpus: Collection[str]
    ) -> Mapping[Key, Action | None]:
        """Return the instances that are being worked on or just were: the action if it ended well, else None.

        Args:
            ended: actions that just have.
            gpus: whose instances are asked for.
        """
        done = {key_of(each.action): None if each.error else each.action for each in ended}
        under_way = (key for gpu in gpus if gpu in self._worked_on for key in self._worked_on[gpu].values())
        return {**done, **dict.fromkeys(under_way)}

    def _end(self, name: str) -> list[str]:
        self.done += 1
        freed = []
        for later in self._followers[name]:
            self._waits[later] -= 1
            if self._waits[later] == 0:
                self._free[later] = 0.0
                freed.append(later)
        return freed


@dataclass(frozen=True, slots=True)
class Backoff:
    """Bounded retries with exponential back-off and jitter.

    Attributes:
        tries: how often an action is tried at most.
        first: seconds before the second try.
        factor: by how much each wait is longer than the one before.
        most: longest wait in seconds.
        jitter: share of a wait that is left to chance, so that failures of one cause do not come back as one.
    """

    tries: int = 5
    first: float = 1.0
    factor: float = 2.0
    most: float = 60.0
    jitter: float = 0.5

    def delay(self, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after so many failures (1 or more)."""
        full = min(self.most, self.first * self.factor ** (failures - 1))
        return full * (1 - self.jitter * rng.random())


_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that is not tried again, how often it was tried, and why it failed the last time."""

    action: Action
    tries: int
    error: DriveError


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transition ended. Nothing of it is under way any more.

    Attributes:
        complete: all of it was done.
        done: actions that ended well.
        moved: what someone else changed meanwhile, in words.
        failure: the action that failed for good, if one did.
        stopped: it was asked to stop.
    """

    complete: bool
    done: int
    moved: tuple[str, ...] = ()
    failure: Failure | None = None
    stopped: bool = False

    @property
    def replan(self) -> bool:
        """Whether the cluster is another than the one that the transition was made for."""
        return bool(self.moved) or (self.failure is not None and isinstance(self.failure.error, GpuLostError))


class Reporter(Protocol):
    """Is told what happens; must be cheap and not raise."""

    def began(self, action: Action) -> None:
        """An action has begun."""
        ...

    def ended(self, ended: ActionResult, done: int, total: int) -> None:
        """An action has ended; so many of all have ended well."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know."""
        ...

    def observed(self, view: ClusterView) -> None:
        """The cluster has been looked at; the view goes on changing."""
        ...


@dataclass(frozen=True, slots=True)
class TransitionExecutor:
    """What is needed to act.

    Attributes:
        stop: true once no further action is to begin.
        rng: for the jitter of waits.
        ahead: is told each transition before it begins, and None when a goal is reached or given up.
    """

    driver: Driver
    journal: Journal
    reporter: Reporter
    backoff: Backoff
    rng: random.Random
    stop: Callable[[], bool] = lambda: False
    ahead: Callable[[Transition | None], None] = lambda _: None


def execute(hands: TransitionExecutor, transition: Transition, before: Snapshot) -> Outcome:
    """Carry out a transition that was made for the cluster as it was seen `before`.

    Each time anything has ended, what has changed on the cluster is observed, and compared with what was there, less
    our own doing: an action begins only on a cluster that nobody else has changed. Whatever happens, what is
    under way is waited for.

    Raises:
        JournalError: the journal cannot be written any more.
        DriveError: the cluster cannot be observed any more.
    """
    course = Schedule(transition, hands.backoff, hands.rng)
    try:
        return _Execution(hands, course, before).run()
    except PartitaError:
        while hands.driver.wait():
            pass
        raise


class _Execution:
    def __init__(self, hands: TransitionExecutor, course: Schedule, before: Snapshot) -> None:
        self._hands = hands
        self._course = course
        self._view = ClusterView(hands.driver)
        self._shown: Snapshot | None = before
        self._moved: list[str] = []
        self._failure: Failure | None = None

    def run(self) -> Outcome:
        hands, course = self._hands, self._course
        ended: tuple[ActionResult, ...] = ()
        while True:
            self._observe(ended)
            if not self._halting:
                self._begin()
            elif not course.under_way:
                break
            if course.over:
                break
            ended = hands.driver.wait(self._until())
            for each in ended:
                self._end(each)
        return Outcome(
            course.over,
            course.done,
            tuple(self._moved),
            self._failure,
            stopped=not course.over and hands.stop(),
        )

    @property
    def _halting(self) -> bool:
        return bool(self._moved or self._failure or self._hands.stop())

    def _until(self) -> float | None:
        """Return until when to wait: for an action's end, or else not so long that a wish to stop is missed."""
        at = self._course.next_try
        return None if at is None or self._halting else min(at, self._hands.driver.clock.now() + _LOOK_S)

    def _observe(self, ended: tuple[ActionResult, ...]) -> None:
        hands = self._hands
        seen = self._view.look({each.action.gpu for each in ended})
        # The first look sees all GPUs, and is held against what the transition was made for.
        before, self._shown = self._shown or seen.before, None
        for text in moved(before, seen.now, self._course.worked_on(ended, seen.gpus)):
            self._moved.append(text)
            hands.journal.note(f"someone else's doing: {text}", hands.driver.clock.now())
            hands.reporter.note(f"someone else changed the cluster: {text}")
        hands.journal.record(ended, seen.now, hands.driver.clock.now(), seen.gpus)
        hands.reporter.observed(self._view)

    def _begin(self) -> None:
        hands = self._hands
        now = hands.driver.clock.now()
        steps = self._course.begin(self._view, now)
        if steps:
            hands.journal.intend(steps, now)
        for step in steps:
            hands.driver.begin(step)
            hands.reporter.began(step)

    def _end(self, ended: ActionResult) -> None:
        error = self._course.end(ended, self._hands.driver.clock.now())
        if error is not None and self._failure is None:
            self._failure = Failure(ended.action, self._course.failures(ended.action), error)
        self._hands.reporter.ended(ended, self._course.done, self._course.total)
