"""`partita mig-manager`: cuts empty nodes of a cluster without a DRA driver."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 -- typer asks for it
from typing import Annotated

import typer

from partita.cli.options import Kubeconfig, KubeContext
from partita.cli.output import echo, stderr
from partita.kubernetes.connecting import open_api
from partita.kubernetes.mig_manager import MigManager
from partita.transition.document import read_target


def mig_manager(
    plan: Annotated[
        Path,
        typer.Argument(metavar="PLAN", help="Plan or layouts (JSON) whose GPUs are NODE/gpu-N; - is stdin."),
    ],
    *,
    kubeconfig: Kubeconfig = None,
    context: KubeContext = None,
    operator_namespace: Annotated[
        str, typer.Option(metavar="NAME", help="Namespace of NVIDIA's GPU operator.")
    ] = "gpu-operator",
    config_map: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="ConfigMap that mig-manager mounts: name of migManager.config in the operator's values.",
        ),
    ] = "partita-mig-parted-config",
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1.0, help="Seconds that a node may take, with a reboot if it needs one."
        ),
    ] = 900.0,
) -> None:
    """Cut the empty nodes of a cluster without a DRA driver, through the GPU operator's mig-manager.

    mig-manager takes counts and destroys what stands on a GPU whose counts change. So a node is cut only if no pod
    holds a GPU of it, and is cordoned meanwhile; if one node of the plan cannot be cut, none is touched. Where
    instances start is mig-manager's choice. Where NVIDIA's DRA driver runs, use `partita controller`.
    """

    def tell(text: str) -> None:
        stderr().print(text, markup=False, highlight=False, soft_wrap=True)

    target = read_target(plan)
    api = open_api(kubeconfig, context)
    try:
        manager = MigManager(api, namespace=operator_namespace, config_map=config_map, timeout_s=timeout)
        for each in manager.cut(target, tell):
            echo(f"{each.node}: cut by {each.config} in {each.seconds:.0f} s")
    finally:
        api.close()
