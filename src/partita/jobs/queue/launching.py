"""What the runner is told of an attempt that is about to begin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from partita.errors import PartitaError
from partita.jobs.queue.access import owner
from partita.jobs.queue.codec import dumps
from partita.jobs.run.runner import Launch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from partita.jobs.queue.record import JobRecord
    from partita.jobs.queue.settings import Settings


def launch_of(job: JobRecord, folder: Path, environment: Mapping[str, str], settings: Settings) -> Launch:
    """Return the launch of a job's newest attempt, whose instance stands.

    Args:
        job: which.
        folder: the attempt's own, not there yet.
        environment: as it was submitted with.
        settings: how the queue is run.
    """
    return Launch(
        job=job.id,
        attempt=job.attempt.number,
        folder=folder,
        command=job.words,
        directory=Path(job.directory),
        environment=environment,
        owner=owner(job.submitter),
        device=job.attempt.device or "",
        memory_bytes=job.attempt.limit_bytes,
        log_bytes=settings.log_bytes,
        grace_s=job.asked.grace_s,
        index=job.index,
        limit_s=job.asked.limit_s,
        umask=job.asked.umask,
        key=job.attempt.key or "",
        record=dumps(job),
        oom_patterns=(*job.asked.oom_patterns, *settings.oom_patterns),
    )


def make_parent(folder: Path) -> None:
    """Make the folder of a job's attempts, which its user may pass through.

    Raises:
        PartitaError: it cannot be made.
    """
    try:
        folder.parent.mkdir(exist_ok=True)
        folder.parent.chmod(0o711)  # whatever the daemon's umask is
    except OSError as error:
        raise PartitaError(f"a job cannot be started: {error.strerror}", where=str(folder)) from error
