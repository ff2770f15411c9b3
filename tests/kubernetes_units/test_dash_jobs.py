"""Jobs as the API shows them, from what a keeper would watch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partita.dash.refusal import RequestFault
from partita.errors import InputError
from partita.jobs.queue.record import AttemptVerdict
from partita.kubernetes.dash_jobs import ControllerJobs, deleted
from partita.kubernetes.job_objects import JobMemo, JobObject, PodEnd, dump_memo
from partita.kubernetes.objects import ForbiddenError, NotFoundError, UnreachableError
from partita.kubernetes.pods import Pod
from partita.mig.layout import Placement

if TYPE_CHECKING:
    from partita.dash.model import Job
    from partita.kubernetes.controller import ClusterController

PLACE = Placement(0, "1g.5gb")
WORDS = [
    "Waiting",
    "Running",
    "Starting",
    "Stopping",
    "Yielding",
    "Succeeded",
    "Failed",
    "Stopped",
    "Refused",
]


def job(name: str, state: str = "", reason: str = "", **more: Any) -> JobObject:
    """Return a Job with annotations of its controller; `more` are the time of its creation, and its memo."""
    said = {
        "state": state,
        "reason": reason,
        "attempts": more.get("memo", ""),
        "expected-start": more.get("start", ""),
    }
    body = {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "creationTimestamp": more.get("at", "2026-11-27T10:00:00Z"),
            "labels": {"partita.dev/queue": "serving", "partita.dev/memory": "4Gi"},
            "annotations": {f"partita.dev/{key}": text for key, text in said.items() if text},
        },
        "spec": {
            "template": {"spec": {"containers": [{"name": "main", "image": "i", "command": ["train", name]}]}}
        },
        "status": {"conditions": more.get("conditions", [])},
    }
    return msgspec.convert(body, JobObject)


def pod(name: str, of: str, *, phase: str = "Running", **annotations: str) -> Pod:
    """Return a Job's pod on a slice."""
    ended = {"terminated": {"exitCode": 1, "finishedAt": "2026-11-27T11:00:00Z"}} if phase == "Failed" else {}
    body = {
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": name,
            "creationTimestamp": "2026-11-27T10:01:00Z",
            "annotations": {f"partita.dev/{key}": text for key, text in annotations.items()},
            "ownerReferences": [{"kind": "Job", "name": of, "uid": f"uid-{of}", "controller": True}],
        },
        "spec": {"nodeName": "node-0"},
        "status": {
            "phase": phase,
            "startTime": "2026-11-27T10:02:00Z",
            "containerStatuses": [{"name": "main", "state": ended}],
        },
    }
    return msgspec.convert(body, Pod)


class Api:
    """An API server that has a log, or refuses it, and Jobs that nobody watches."""

    def __init__(self, log: bytes | Exception = b"", unseen: tuple[JobObject, ...] = ()) -> None:
        self.log, self.unseen = log, unseen
        self.asked: list[dict[str, str]] = []
        self.labels: list[str] = []

    def read_bytes(
        self, _: object, name: str, namespace: str, *, subresource: str, query: dict[str, str]
    ) -> bytes:
        assert (namespace, subresource) == ("team", "log")
        self.asked.append({"pod": name, **query})
        if isinstance(self.log, Exception):
            raise self.log
        return self.log[: int(query["limitBytes"])]

    def list_objects(self, _: object, namespace: str | None, *, labels: str) -> Any:
        assert namespace is None
        self.labels.append(labels)
        return SimpleNamespace(items=self.unseen)


def watched(
    *jobs: JobObject, pods: tuple[Pod, ...] = (), api: Api | None = None, on: Pod | None = None
) -> ControllerJobs:
    """Return the Jobs of a controller with one Workload, `serving`; a pod is on a slice."""
    placed = {} if on is None else {("node-0/gpu-0", PLACE): on}
    keeper = SimpleNamespace(jobs=SimpleNamespace(jobs=jobs, pods=pods, placed=lambda: placed), facts=None)
    found = SimpleNamespace(
        keepers={("team", "serving"): keeper},
        api=api or Api(),
        namespace=None,
        leader=SimpleNamespace(leads=True),
    )
    return ControllerJobs(cast("ClusterController", found))


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 3), st.integers(0, 3)), max_size=12),
    st.integers(1, 5),
)
def test_pages_have_each_job_once_in_their_order(rows: list[tuple[str, int, int]], limit: int) -> None:
    found = watched(
        *(
            job(f"j{n}", word, "why", at=f"2026-11-2{day}T10:00:00Z", start=f"~2026-11-28T1{start}:00Z")
            for n, (word, day, start) in enumerate(rows)
        )
    )
    after, counts = None, {}
    seen: list[Job] = []
    while True:
        page = found.page(after, limit, "", "")
        assert len(page.jobs) <= limit
        seen += page.jobs
        after, counts = page.next, page.counts
        if after is None:
            break
    assert [each.id for each in seen] == [each.id for each in found.all()]
    assert len({each.id for each in seen}) == len(rows) == sum(counts.values())
    ranks = [
        ("running", "stopping", "starting", "waiting").index(s)
        if (s := each.state) not in ("done", "failed")
        else 4
        for each in seen
    ]
    assert ranks == sorted(ranks)
    starts = [each.predicted_start or 0.0 for each in seen if each.state == "waiting"]
    assert starts == sorted(starts)
    over = [each.submitted for each in seen if each.state in ("done", "failed")]
    assert over == sorted(over, reverse=True)


def test_a_list_can_be_narrowed() -> None:
    found = watched(
        job("a", "Running"),
        job("b", "Waiting", "all busy until ~10:00"),
        job("c", "Waiting", "3 jobs go first"),
    )
    assert [each.id for each in found.page(None, 10, "waiting", "").jobs] == ["team.b", "team.c"]
    assert [each.id for each in found.page(None, 10, "", "TRAIN C").jobs] == ["team.c"]
    assert found.job("team.b").advice == "nothing: it starts when a slice is free"
    assert found.job("team.b").memory_bytes == (0.0, 4.0 * 2**30)
    for state, after in (("late", None), ("", "3"), ("", "0:1:2:A")):
        with pytest.raises(InputError):
            found.page(after, 10, state, "")


def test_how_it_ended_counts_more_than_what_was_said_before() -> None:
    over = [{"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}]
    found = watched(job("a", "Running", "1g.5gb@0 on node-0/gpu-0", conditions=over))
    (shown,) = found.all()
    assert (shown.state, shown.reason) == ("failed", "Job has reached the specified backoff limit")
    assert shown.advice == "read its log"
    done = [{"type": "Complete", "status": "True"}]
    (shown,) = watched(job("a", "Succeeded", conditions=done)).all()
    assert (shown.state, shown.reason, shown.advice) == ("done", None, None)
    assert deleted(shown).state == "cancelled"


def ladder() -> tuple[JobObject, tuple[Pod, ...]]:
    """Return a Job that was out of memory twice, the first time in a pod that is gone, and runs now."""
    ends = [
        PodEnd(
            name,
            "node-0/gpu-0",
            place,
            size * 2**30,
            AttemptVerdict.OUT_OF_MEMORY,
            "too large",
            at,
            at + 1,
            1,
        )
        for name, place, size, at in (("gone", "1g.5gb@0", 5, 1e9), ("second", "1g.10gb@2", 10, 1e9 + 9))
    ]
    memo = dump_memo(JobMemo(resumed=True, tries=2, at_least_bytes=10 * 2**30, ends=tuple(ends)))
    return job("a", "Running", memo=memo), (
        pod("third", "a", placement="node-0/gpu-0 2g.10gb@4"),
        pod(
            "second",
            "a",
            phase="Failed",
            placement="node-0/gpu-0 1g.10gb@2",
            verdict="out of memory: CUDA: no more",
        ),
        pod("other", "b", placement="node-0/gpu-0 1g.5gb@6"),
        pod("waiting", "a"),
    )


def test_the_attempts_are_what_is_remembered_and_the_pods_that_are_there() -> None:
    one, pods = ladder()
    found = watched(one, pods=pods, on=pods[0])
    assert found.placed() == {("node-0/gpu-0", "1g.5gb@0"): "team.a"}
    shown = found.job("team.a")
    assert (shown.gpu, shown.placement) == ("node-0/gpu-0", "1g.5gb@0")
    assert [(each.number, each.placement, each.verdict, each.why, each.code) for each in shown.attempts] == [
        (1, "1g.5gb@0", "out of memory", "too large", 1),
        (2, "1g.10gb@2", "out of memory", "CUDA: no more", 1),
        (3, "2g.10gb@4", None, None, None),
    ]
    assert shown.memory_bytes == (10.0 * 2**30, 10.0 * 2**30)


def test_a_log_comes_piece_by_piece_and_in_whole_characters() -> None:
    one, pods = ladder()
    api = Api("eins\nzwei ü\n".encode()[:-2])
    found = watched(one, pods=pods, api=api)
    piece = found.log("team.a", 0, None)
    assert (piece.text, piece.next, piece.over, piece.attempt) == ("eins\nzwei ", 10, False, 3)
    api.log = "eins\nzwei ü\n".encode()
    piece = found.log("team.a", piece.next, None)
    assert (piece.text, piece.next) == ("ü\n", 13)
    api.log = b"new file\n"
    piece = found.log("team.a", 13, None)
    assert (piece.text, piece.next) == ("new file\n", 9)
    api.log = b""
    assert found.log("team.a", 0, 2).over
    assert api.asked[-1] == {"pod": "second", "container": "main", "limitBytes": str(2**18)}
    assert not found.log("team.a", 0, None).over  # it may write more


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ForbiddenError("no right to get pods/log"), 403, "account may not read logs"),
        (NotFoundError("no such pod"), 404, "node node-0 has no log of pod third"),
        (UnreachableError("the kubelet does not answer"), 503, "the kubelet does not answer"),
    ],
)
def test_where_a_log_cannot_be_had_the_command_for_it_is_said(
    error: Exception, status: int, says: str
) -> None:
    one, pods = ladder()
    with pytest.raises(RequestFault, match=says) as told:
        watched(one, pods=pods, api=Api(error)).log("team.a", 0, None)
    assert told.value.status == status
    assert "`kubectl logs -n team third -c main`" in (told.value.fault.hint or "")


def test_a_log_that_is_gone_or_too_long_is_refused_and_one_that_never_began_is_empty() -> None:
    one, pods = ladder()
    found = watched(one, job("new", "Waiting"), pods=pods)
    with pytest.raises(RequestFault, match="the pod of attempt 1 is gone"):
        found.log("team.a", 0, 1)
    with pytest.raises(RequestFault, match="has no attempt 4"):
        found.log("team.a", 0, 4)
    with pytest.raises(RequestFault, match="only the first 16 MiB"):
        found.log("team.a", 2**24, None)
    with pytest.raises(RequestFault, match=r"there is no Job .team\.none"):
        found.log("team.none", 0, None)
    empty = found.log("team.new", 0, None)
    assert (empty.text, empty.next, empty.attempt, empty.over) == ("", 0, 0, False)


def test_jobs_of_queues_that_no_workload_has_are_shown_with_what_to_do() -> None:
    api = Api(unseen=(job("lost"),))
    found = watched(job("a", "Running"), api=api)
    page = found.page(None, 10, "", "")
    assert [each.id for each in page.jobs] == ["team.a", "team.lost"]
    assert page.jobs[1].reason == "no Workload serving is accepted in namespace team"
    assert "kubectl describe workload serving -n team" in (page.jobs[1].advice or "")
    assert found.job("team.lost").state == "waiting"
    assert found.log("team.lost", 0, None).text == ""
    assert api.labels == ["partita.dev/queue,partita.dev/queue notin (serving)"]  # once in some seconds
