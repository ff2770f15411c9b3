"""Connecting to the API server of a kubeconfig, or of the pod that this process runs in.

The official client reads kubeconfigs, contexts, exec plugins and rotating tokens.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partita.errors import InputError
from partita.files import home
from partita.kubernetes.api import KubernetesApi, RateLimit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubernetes.client.api_client import ApiClient


_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def open_api(
    kubeconfig: str | None = None,
    context: str | None = None,
    namespace: str | None = None,
    *,
    requests_per_s: float = 100.0,
    burst: int = 200,
) -> KubernetesApi:
    """Return the API server that a kubeconfig names; in a pod without one, the API server of its cluster.

    Args:
        kubeconfig: paths, as in KUBECONFIG; None for those of KUBECONFIG, or else `~/.kube/config`.
        context: of the kubeconfig; None for its current context.
        namespace: of objects for which no namespace is given; None for the context's or the pod's.
        requests_per_s: limit of requests per second over time.
        burst: limit of requests at once.

    Raises:
        InputError: there is no configuration, or it cannot be read.
    """
    if importlib.util.find_spec("kubernetes.client") is None:
        raise InputError("the Kubernetes client is not installed", hint="pip install 'partita[kubernetes]'")
    own = ""

    def connect() -> ApiClient:
        nonlocal own
        usual = home() / ".kube" / "config"
        paths = kubeconfig or os.environ.get("KUBECONFIG") or (str(usual) if usual.exists() else None)
        client, own = _connected(paths, context)
        return client

    api = KubernetesApi(connect, "", RateLimit(requests_per_s, burst))
    api.namespace = namespace or own
    return api


def _connected(paths: str | None, context: str | None) -> tuple[ApiClient, str]:
    """Return a client, and the namespace of its context or pod."""
    from kubernetes.client.api_client import ApiClient  # noqa: PLC0415 -- of the extra, and 0.7 s
    from kubernetes.client.configuration import Configuration  # noqa: PLC0415

    settings = Configuration()
    if paths or "KUBERNETES_SERVICE_HOST" not in os.environ:
        namespace = _from_kubeconfig(settings, paths, context)
    else:
        namespace = _in_cluster(settings)
    settings.retries = False  # `KubernetesApi` decides what is retried
    settings.connection_pool_maxsize = 32
    settings.keep_alive = True
    if not settings.verify_ssl:
        from urllib3.exceptions import InsecureRequestWarning  # noqa: PLC0415 -- of the extra

        warnings.simplefilter("ignore", InsecureRequestWarning)  # the kubeconfig says so
    client = ApiClient(settings)
    client.user_agent = "partita"
    return client, namespace


def _from_kubeconfig(settings: Any, paths: str | None, context: str | None) -> str:  # noqa: ANN401 -- the client's
    """Fill in the client's settings; return the context's namespace."""
    import yaml  # noqa: PLC0415 -- only for its errors

    load = _kubernetes_config()

    hint = "name one with --kubeconfig or KUBECONFIG; `kubectl config get-contexts` lists contexts"
    if paths is None:
        raise InputError("there is no kubeconfig, and this process does not run in a pod", hint=hint)
    missing = [path for path in paths.split(os.pathsep) if path and not Path(path).expanduser().exists()]
    if missing and len(missing) == len(paths.split(os.pathsep)):
        raise InputError("there is no such kubeconfig", where=missing[0], hint=hint)
    try:
        contexts, active = load.list_kube_config_contexts(paths)
        load.load_kube_config(paths, context=context, client_configuration=settings, persist_config=False)
    except (load.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"the kubeconfig cannot be used: {error}", where=paths, hint=hint) from None
    chosen: Sequence[Any] = [each for each in contexts if context is None or each["name"] == context]
    found = active if context is None else next(iter(chosen))
    return str(found["context"].get("namespace") or "default")


def _kubernetes_config() -> Any:  # noqa: ANN401 -- untyped
    return importlib.import_module("kubernetes.config")  # of the extra


def _in_cluster(settings: Any) -> str:  # noqa: ANN401 -- the client's
    """Fill in the client's settings from the pod's service account; return its namespace."""
    load = _kubernetes_config()
    try:
        load.load_incluster_config(client_configuration=settings)
    except (load.ConfigException, OSError) as error:
        hint = "check whether the pod's spec says automountServiceAccountToken: false"
        raise InputError(f"the pod's service account cannot be used: {error}", hint=hint) from None
    path = _ACCOUNT / "namespace"
    return path.read_text(encoding="utf-8").strip() if path.exists() else "default"
