"""Kubernetes Jobs as `partita queue` shows them, from the annotations that the controller writes."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.jobs.disciplines.classes import DEFAULT
from partita.kubernetes.job_objects import JOB, QUEUE, REASON, START, STATE, seconds_of, stated_memory

if TYPE_CHECKING:
    from partita.kubernetes.api import KubernetesApi
    from partita.kubernetes.job_objects import JobObject

_ORDER = {"running": 0, "yielding": 1, "stopping": 1, "starting": 2, "waiting": 3}
_NOBODY = (
    "no controller has seen it: check that partita controller runs, and that its queue's Workload exists"
)


def cluster_queue(api: KubernetesApi, namespace: str | None, most: int | None) -> dict[str, Any]:
    """Return the unfinished Jobs of Partita's queues, in the form of the daemon's answer.

    Args:
        api: the cluster's.
        namespace: of the Jobs; None for all namespaces.
        most: limit of the Jobs returned; None for all.

    Raises:
        KubernetesError: the Jobs cannot be listed.
    """
    found = api.list_objects(JOB, namespace, labels=QUEUE).items
    rows = [_row(job) for job in found if job.end is None]
    rows.sort(
        key=lambda row: (
            _ORDER.get(row["state"], 4),
            row["start"] or float("inf"),
            row["submitted"],
            row["id"],
        )
    )
    return {
        "jobs": rows[:most],
        "total": len(rows),
        "counts": dict(Counter(row["state"] for row in rows)),
        "discipline": DEFAULT,
        "trouble": None,
        "now": time.time(),
    }


def _row(job: JobObject) -> dict[str, Any]:
    annotations = job.metadata.annotations
    start = annotations.get(START)
    try:
        memory = stated_memory(job).upper
    except InputError:
        memory = None  # the Job's reason says what is wrong
    words = [word for each in job.spec.template.spec.containers[:1] for word in (*each.command, *each.args)]
    return {
        "id": f"{job.metadata.namespace}/{job.metadata.name}",
        "queue": job.metadata.labels.get(QUEUE),
        "user": job.metadata.namespace,
        "state": annotations.get(STATE, "waiting").lower(),
        "submitted": seconds_of(job.metadata.creation_timestamp),
        "memory_bytes": memory,
        "start": seconds_of(start.lstrip("~")) if start else None,
        "start_estimated": start.startswith("~") if start else None,
        "began": seconds_of(job.status.start_time),
        "name": job.metadata.name,
        "command": " ".join(words),
        "reason": annotations.get(REASON) or _NOBODY,
    }
