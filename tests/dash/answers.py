"""Answers of an API to all that is asked for on demand: the pages are drawn from them alone."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from tests.web.test_transition_report import made, over_time, report, request

from partita.dash.model import (
    Accepted,
    Difference,
    Energy,
    EnergyRow,
    Event,
    Fault,
    Index,
    Job,
    JobAttempt,
    JobLog,
    JobPage,
    Part,
    PlanSummary,
    PoolInput,
    Role,
    ServiceDifference,
    ServiceInput,
    Session,
    Transition,
    TransitionDetail,
    TransitionPage,
    TransitionState,
    WhatIf,
    WhatIfAnswer,
    WhatIfInputs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page, Route

    from partita.documents.codec import Value

ORIGIN = "http://dashboard.test"
NOW = 1_795_000_000.0
GIB = 2.0**30
ODD = "<img src=x onerror=\"document.title='broken'\">"
"""A name that is harmless as text alone."""


class Answers:
    """The answers, and what was sent.

    Args:
        services: how many the workload has.
        role: of whoever looks.
        name: of the first service, of a job's user, and of a GPU.
    """

    def __init__(self, services: int = 5, role: Role = Role.WRITE, name: str = ODD) -> None:
        self.role = role
        self.name = name
        self.names = (name, *(f"service-{n}" for n in range(1, services)))
        self.sent: list[tuple[str, str, Any]] = []
        self.elsewhere: list[str] = []
        self.state = TransitionState.RUNNING
        self.forgotten: set[str] = set()
        """Jobs that are there no more."""
        self.log_over = True
        self.refused: Fault | None = None
        """What the next change that is applied is answered."""
        self.nothing = False
        """Whether nothing runs, and nothing ever did."""
        self.long: TransitionDetail | None = None
        """In the place of the transition that runs."""
        self.workloads: tuple[str, ...] = ()
        self._workload = ""

    def attach(self, page: Page) -> None:
        """Answer all requests of a page; those that lead elsewhere are refused and noted."""
        page.route("**/*", self._answer)

    def _answer(self, route: Route) -> None:
        request = route.request
        url = urlsplit(request.url)
        if f"{url.scheme}://{url.netloc}" != ORIGIN:
            self.elsewhere.append(request.url)
            route.abort()
            return
        if not url.path.startswith("/api/v1"):
            name = url.path.lstrip("/") or "index.html"
            kind = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
            body = resources.files("partita.dash").joinpath("bundle", name).read_text(encoding="utf-8")
            route.fulfill(body=body, content_type=kind[name.rpartition(".")[2]])
            return
        (self._workload,) = parse_qs(url.query).get("workload", self.workloads[:1] or ("",))
        path = unquote(url.path.removeprefix("/api/v1").strip("/"))
        if path == "stream":
            route.fulfill(body=": quiet\n\n", content_type="text/event-stream")
            return
        sent = request.post_data_json if request.method == "POST" and request.post_data else None
        if request.method != "GET":
            self.sent.append((request.method, path, sent))
        found = self._document(request.method, path, sent)
        status = (412 if path == "apply" else 404) if isinstance(found, Fault) else 200
        route.fulfill(status=status, body=msgspec.json.encode(found), content_type="application/json")

    def _document(self, method: str, path: str, sent: object) -> Value:
        if (method, path) == ("POST", "what-if"):
            return self.what_if(msgspec.convert(sent, WhatIf))
        if method == "POST" and path.startswith("transitions/"):
            verb = path.rpartition("/")[2]
            self.state = TransitionState.PAUSED if verb == "pause" else TransitionState.RUNNING
            return Accepted("t-2", verb)
        if (method, path) == ("POST", "session"):
            self.role = Role.WRITE
            return Session(self.role)
        if path.startswith("jobs/") and path.split("/")[1] in self.forgotten:
            return Fault("there is no such job")
        if path.endswith("/log"):
            return JobLog(f"epoch 1\n{self.name}\n", 8 + len(self.name) + 1, over=self.log_over)
        known: dict[str, Callable[[], Value]] = {
            "GET ": lambda: Index("1", "lab", "day.yaml", NOW, self.role, tuple(Part), "state-1", 0),
            "GET what-if": lambda: self.inputs,
            "GET transitions": lambda: TransitionPage((self.transition.transition, self._earlier())),
            "GET transitions/t-1": lambda: TransitionDetail(self._earlier(), (), (), ()),
            "GET transitions/t-2": lambda: self.long or self.transition,
            "GET plan": lambda: PlanSummary(
                "v", 12, 12.0, True, "proven optimal (bound 12)", 30.0, instances=40
            ),
            "GET plan/difference": lambda: self.difference,
            "GET jobs": lambda: JobPage(self.jobs, {"waiting": 1, "running": 1}),
            "GET energy": lambda: Energy(0.0, self.energy, 1840.0),
            "POST jobs/7/cancel": lambda: Accepted("7", "it will be cancelled"),
            "POST plan/difference": lambda: self.difference,
            "POST apply": self._applied,
            "POST jobs": lambda: Accepted("9", "submitted"),
            **{f"GET jobs/{each.id}": (lambda each=each: each) for each in self.jobs},  # type: ignore[misc]
        }
        if self.nothing:
            del known["GET plan"], known["GET plan/difference"]
            known["GET transitions"] = lambda: TransitionPage(())
            known["GET jobs"] = lambda: JobPage((), {})
            known["GET energy"] = lambda: Energy(0.0, (), None)
        answer = known.get(f"{method} {path}")
        return Fault(f"there is no {path}") if answer is None else answer()

    def _applied(self) -> Value:
        fault, self.refused = self.refused, None
        return Accepted("t-2", "transition t-2 has begun") if fault is None else fault

    @property
    def inputs(self) -> WhatIfInputs:
        """The services, a pool with a count and a price, and one without."""
        return WhatIfInputs(
            "gpus",
            tuple(ServiceInput(each, 1000.0, 100.0, 0.99) for each in self.names),
            (PoolInput("a100-80gb", "a100-80gb", 24, 2.5), PoolInput("spot", "h100-80gb")),
            self._workload,
            self.workloads,
        )

    @property
    def difference(self) -> Difference:
        """Each service moves one replica and gets another."""
        rows = tuple(
            ServiceDifference(each, 1000.0, 1200.0, 900.0, 950.0, 3, 1, 1, 0, 0) for each in self.names
        )
        return Difference(42, 81.0, 7, ("node-0/gpu-1",), rows, 14, "state-1")

    def what_if(self, asked: WhatIf) -> WhatIfAnswer:
        """Answer: a GPU for each 500 items/s, of which there are as many as the first pool has."""
        changed = {name: each.rate for name, each in asked.services.items() if each.rate is not None}
        gpus = round(sum(changed.get(name, 1000.0) for name in self.names) / 500)
        pool = asked.pools.get("a100-80gb")
        count = 24 if pool is None or pool.count is None else pool.count
        feasible = gpus <= max(count, 2 * len(self.names))
        plan = PlanSummary(
            "w", gpus, gpus, True, f"proven optimal (bound {gpus})", 2.5 * gpus, instances=3 * gpus,
            document={"gpus": gpus} if asked.document else {},
        )  # fmt: skip
        return WhatIfAnswer(
            bound=float(gpus) if feasible else None,
            plan=plan if feasible and asked.until == "plan" else None,
            feasible=feasible,
            now=2 * len(self.names),
            now_cost=5.0 * len(self.names),
            why=None if feasible else f"{gpus} GPUs are needed; allow more of pool a100-80gb",
            short={} if feasible else {self.name: 500.0 * (gpus - count)},
            binds=dict.fromkeys(asked.services, "its latency, on 1g.10gb"),
            command=f"partita plan -f day.yaml {len(asked.services)}",
            yaml="services:\n" if asked.services else "",
            seconds=0.04,
        )

    @property
    def transition(self) -> TransitionDetail:
        """A transition: one half ran, each action half as long again as predicted."""
        asked = request(first=self.name, gpus=3)
        detail = over_time(report(asked)).detail
        seconds = made(asked).makespan
        ran = [each for each in detail.actions if each.begin < 0.4 * seconds]
        bars = tuple(
            msgspec.structs.replace(
                each,
                began=1.5 * each.begin,
                ended=1.5 * each.end if each is not ran[-1] else None,
                error="busy" if each is ran[0] else None,
            )
            if each in ran
            else each
            for each in detail.actions
        )
        whole = Transition(
            "t-2", NOW - 60, "partita apply plan.json", self.state, len(ran) - 1, len(bars), seconds
        )
        lines = tuple(
            msgspec.structs.replace(each, actual=each.predicted[:2], floor=each.floor or 100.0)
            for each in detail.capacity
        )
        note = Event(4, NOW - 30, "note", f"{self.name} is busy", gpu="node-0/gpu-0", service=self.name)
        return TransitionDetail(whole, bars, lines, (note,))

    def _earlier(self) -> Transition:
        return Transition(
            "t-1", NOW - 9000, "partita run", TransitionState.REACHED, 9, 9, 70.0, NOW - 8910, 1
        )

    @property
    def jobs(self) -> tuple[Job, ...]:
        """One that waits, one that runs in its second attempt, one that failed."""
        first = JobAttempt(1, "node-0/gpu-3", "1g.10gb@2", 10 * GIB, NOW - 400, NOW - 390, NOW - 300, "out of memory",
                           "it needed more than the slice has", 137, 9.8 * GIB)  # fmt: skip
        second = JobAttempt(2, "node-0/gpu-3", "2g.20gb@4", 20 * GIB, NOW - 299, NOW - 290)
        return (
            Job("7", self.name, f"python train.py {self.name}", "waiting", NOW - 100, "no slice of 3g.40gb is free",
                "ask for less memory, or wait", NOW + 900, memory_bytes=(22 * GIB, 31 * GIB)),
            Job("6", "ada", "python finetune.py", "running", NOW - 500, gpu="node-0/gpu-3", placement="2g.20gb@4",
                memory_bytes=(12 * GIB, None), attempts=(first, second)),
            Job("5", "ada", "python huge.py", "failed", NOW - 9000, "no slice is large enough",
                "use a GPU with more memory", attempts=(first,)),
        )  # fmt: skip

    @property
    def energy(self) -> tuple[EnergyRow, ...]:
        """Services, a job, idle GPUs, and a row that is not measured."""
        return (
            *(
                EnergyRow("service", each, 3e6 / (n + 1), 86_400.0 / (n + 1), 60.0)
                for n, each in enumerate(self.names)
            ),
            EnergyRow("job", "6", 4e5, 500.0, 0.4),
            EnergyRow("idle", "", 1.2e6, 40_000.0, 28.0),
            EnergyRow("other", "someone else's", None, 600.0, None),
        )


def shown(page: Page) -> str:
    """Return the text of the page."""
    return page.inner_text("main")
