"""Options that name a Kubernetes cluster, and what commands show of it without changing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from partita.errors import InputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from partita.kubernetes.advice import LiveCluster
    from partita.kubernetes.api import KubernetesApi
    from partita.planner import PreparedWorkload
    from partita.transition.deployment import Deployment

OnCluster = Annotated[
    bool, typer.Option("--cluster", help="Read a Kubernetes cluster; change nothing there.")
]


def opened(
    kubeconfig: str | None, context: str | None, namespace: str | None
) -> AbstractContextManager[KubernetesApi]:
    """Return the API of a cluster, to be closed.

    Raises:
        InputError: there is no configuration, or it cannot be read.
    """
    from contextlib import closing  # noqa: PLC0415 -- with the next

    from partita.kubernetes.connecting import open_api  # noqa: PLC0415 -- of the extra

    return closing(open_api(kubeconfig, context, namespace))


def refuse_unused(
    kubeconfig: str | None, context: str | None, namespace: str | None, meant: str = "--cluster"
) -> None:
    """Refuse options of a cluster where none is meant, as the option `meant` would say.

    Raises:
        InputError: there is one.
    """
    given = {"--kubeconfig": kubeconfig, "--context": context, "--namespace": namespace}
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"it has no meaning without {meant}", where=name, hint=f"add {meant}, or leave it out"
            )


def prepared_on_cluster(
    prepared: PreparedWorkload,
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    workload: str | None = None,
) -> tuple[PreparedWorkload, Deployment | None, tuple[str, ...]]:
    """Return a workload on the GPUs that a cluster has free, what runs there, and what is to be said of the GPUs.

    Args:
        prepared: the workload.
        kubeconfig: as of the command.
        context: as of the command.
        namespace: as of the command.
        workload: name of the Workload whose replicas run there and may move; None for none, and then nothing runs.

    Raises:
        InputError: there is no such cluster or Workload, or the workload asks for what cannot be kept there.
        KubernetesError: it does not answer, or refuses.
    """
    from partita.kubernetes.advice import at_free, look, workload_object  # noqa: PLC0415 -- of the extra

    with opened(kubeconfig, context, namespace) as api:
        if workload:
            workload_object(api, workload)
        live = look(api, workload or "", models={pool.model for pool in prepared.workload.gpus})
    return at_free(prepared, live), live.current if workload else None, live_notes(live)


def live_notes(live: LiveCluster) -> tuple[str, ...]:
    """Return what is to be said of a cluster's GPUs."""
    free = ", ".join(f"{count} of {model}" for model, count in sorted(live.free.items())) or "none"
    return (f"GPUs of the cluster that are free: {free}", *live.notes)
