"""`partita picker` in a cluster: it follows pods by EndpointSlices, and goes on while the API server is away."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.kubernetes.control_plane.proxy import Answer, Proxy
from tests.kubernetes.control_plane.tools import grant, revoke
from tests.kubernetes.test_endpoints import know_workloads, perform
from tests.kubernetes_units.envoy import PATIENCE_S, Published
from tests.kubernetes_units.specs import good
from tests.kubernetes_units.test_picker_process import INFER, SERVING, Picker, body, picker, until_health
from tests.serve.gateway.certificates import make_certificates

from partita.kubernetes.connecting import open_api
from partita.kubernetes.dra import DraDriver, DraSettings
from partita.kubernetes.rights import GATEWAY
from partita.mig.layout import Placement
from partita.transition.deployment import Replica
from partita.transition.transition import Action, ActionKind

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kubernetes.control_plane.cluster import ControlPlane
    from tests.kubernetes.control_plane.nodes import SimulatedNodes

SMALL = Replica("search", "resnet50", 4, 1, 200.0, 2000.0)
LARGE = Replica("search", "resnet50", 16, 1, 600.0, 2000.0)
TEMPLATE = {
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "server", "image": "server:1", "ports": [{"containerPort": 8000}]}],
    }
}


def test_it_follows_pods_and_goes_on_without_the_api_server(
    control_plane: ControlPlane, nodes: SimulatedNodes, namespace: str, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    know_workloads(control_plane)
    admin = control_plane.admin
    (node,) = nodes.add_nodes(1, 1)
    spec = good()
    spec["services"] = [{"name": "search", "model": "resnet50", "rate": 10, "slo": {"latency_ms": 20000}}]
    header = {"apiVersion": "partita.dev/v1alpha1", "kind": "Workload", "metadata": {"name": "day"}}
    admin.create("workloads", {**header, "spec": spec}, namespace)
    port = {"name": "http", "port": 8000}
    service = {"clusterIP": "None", "selector": {"partita.dev/service": "search"}, "ports": [port]}
    admin.create("services", {"metadata": {"name": "search"}, "spec": service}, namespace)
    driver = DraDriver(
        open_api(str(control_plane.kubeconfig("admin")), namespace=namespace),
        "day",
        lambda _: TEMPLATE,
        settings=DraSettings(start_timeout_s=PATIENCE_S),
    )
    pairs = {"1g.5gb@0": SMALL, "3g.20gb@4": LARGE}

    def act(kind: ActionKind, *places: str) -> None:
        runs = kind in {ActionKind.START_REPLICA, ActionKind.STOP_REPLICA}
        perform(
            driver,
            *(
                Action(
                    f"{kind}{each}",
                    kind,
                    f"{node}/gpu-0",
                    Placement.parse(each),
                    pairs[each] if runs else None,
                    (),
                    1.0,
                )
                for each in places
            ),
        )

    def addresses() -> dict[str, str]:
        """Return where the pods are, by their placement."""
        return {
            each["metadata"]["annotations"]["partita.dev/placement"].split()[
                1
            ]: f"{each['status']['podIP']}:8000"
            for each in admin.objects("pods", namespace)
        }

    async def first(made: Picker, items: int) -> str:
        async with made.channel(tmp_path / "ca.pem") as channel:
            stream = Published(channel)
            picked = await stream.ask(INFER, body(items))
            assert picked.status is None, picked.body
            await stream.answer()
            return picked.endpoints[0]

    async def test(made: Picker, proxy: Proxy) -> None:
        at = addresses()
        await made.wait_for_endpoints(2)
        async with made.channel(tmp_path / "ca.pem") as channel:
            await until_health(channel, SERVING)
        assert [await first(made, items) for items in (1, 16)] == [at["1g.5gb@0"], at["3g.20gb@4"]]
        proxy.before = lambda _: Answer(503, "ServiceUnavailable", "the API server is away")
        proxy.cut()
        await asyncio.to_thread(act, ActionKind.STOP_REPLICA, "1g.5gb@0")
        assert (await asyncio.to_thread(made.page, "/readyz"))[0] == 200
        assert await first(made, 16) == at["3g.20gb@4"]
        assert made.metric('partita_endpoints{service="search"}') == 2  # it cannot know better
        proxy.before = None
        await made.wait_for_endpoints(1)
        assert await first(made, 1) == at["3g.20gb@4"]
        assert proxy.writes() == []
        made.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(made.process.wait, PATIENCE_S) == 0

    act(ActionKind.CREATE_INSTANCE, *pairs)
    act(ActionKind.START_REPLICA, *pairs)
    try:
        grant(control_plane, "picker", namespace, GATEWAY)
        with Proxy(control_plane) as proxy:
            kubeconfig = str(proxy.kubeconfig_of("picker", namespace))
            words = ("--kubernetes", "day", "--kubeconfig", kubeconfig, "--namespace", namespace)
            with picker(tmp_path, *words) as made:
                asyncio.run(test(made, proxy))
    finally:
        revoke(control_plane, "picker", namespace)
        act(ActionKind.STOP_REPLICA, "3g.20gb@4")
        act(ActionKind.DESTROY_INSTANCE, *pairs)
        driver.release()
        driver.close()
