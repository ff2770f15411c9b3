"""A checker of simulated schedules, written from the rules of MIG; it shares no code with what it checks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from partita.jobs.job import Job
    from partita.jobs.simulate import Run
    from partita.mig.gpu import GpuModel


def check_runs(jobs: Iterable[Job], runs: Sequence[Run], gpu: GpuModel, count: int) -> list[str]:
    """Return what is wrong with a schedule; empty if it is right.

    Right means: each job runs exactly once, not before it arrived, on an existing GPU, on a profile that holds it, at
    a start of the profile; and at no moment do the instances in use on a GPU share a memory slice, or take more
    compute slices than it has.

    Args:
        jobs: the jobs to run.
        runs: in any order.
        gpu: the model of all GPUs.
        count: how many there are.
    """
    times = Counter(run.job for run in runs)
    faults = [f"job {job.id} runs {times[job]} times" for job in jobs if times[job] != 1]
    for run in runs:
        faults += (f"job {run.job.id}: {what}" for what in _run_faults(run, gpu, count))
    for index in range(count):
        here = sorted((run for run in runs if run.gpu == index), key=lambda run: run.decided)
        for position, run in enumerate(here):
            beside = [other for other in here[:position] if other.ended > run.decided]
            faults += (f"job {run.job.id} on GPU {index}: {what}" for what in _clashes(run, beside, gpu))
    return faults


def _run_faults(run: Run, gpu: GpuModel, count: int) -> Iterator[str]:
    if not 0 <= run.gpu < count:
        yield f"there is no GPU {run.gpu}"
    if run.placement.profile not in run.job.seconds:
        yield f"{run.placement.profile} does not hold it"
    if run.placement.start not in gpu.profile(run.placement.profile).starts:
        yield f"{run.placement} is not a placement"
    if not run.job.arrival <= run.decided <= run.began <= run.ended:
        yield "it begins before it arrives, or ends before it begins"


def _clashes(run: Run, beside: Sequence[Run], gpu: GpuModel) -> Iterator[str]:
    mine = _slices(run, gpu)
    for other in beside:
        if mine & _slices(other, gpu):
            yield f"shares memory slices with job {other.job.id}"
    compute = sum(gpu.profile(each.placement.profile).compute for each in (run, *beside))
    if compute > gpu.compute_slices:
        yield f"{compute} compute slices in use of {gpu.compute_slices}"


def _slices(run: Run, gpu: GpuModel) -> set[int]:
    size = gpu.profile(run.placement.profile).memory
    return set(range(run.placement.start, run.placement.start + size))
