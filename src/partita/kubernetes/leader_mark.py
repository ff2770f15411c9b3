"""A label on the pod of the controller that leads, by which a Service finds it.

A new leader takes the label from all other pods, so one that was killed or hangs does not keep it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from partita.kubernetes.objects import KubernetesError
from partita.kubernetes.pods import POD

if TYPE_CHECKING:
    from collections.abc import Callable

    from partita.kubernetes.api import KubernetesApi

LEADS = "partita.dev/leads"
_AGAIN_S = 5.0
_CHECK_S = 60.0


class LeaderMark:
    """Keeps the label on one pod.

    Args:
        api: guarded by the lease, in the pod's namespace.
        pod: name of the controller's own pod.
        tell: called with failures, as a sentence for the log.
    """

    def __init__(self, api: KubernetesApi, pod: str, tell: Callable[[str], None]) -> None:
        self._api = api
        self._pod = pod
        self._tell = tell
        self._told = ""
        self._next = float("-inf")

    def keep(self) -> None:
        """See that our pod has the label and no other does, now and then; failures are logged, and it tries again."""
        if time.monotonic() < self._next:
            return
        try:
            marked = self._api.list_objects(POD, self._api.namespace, labels=f"{LEADS}=true").items
            names = {each.metadata.name for each in marked}
            for name in names - {self._pod}:
                self._label(name, None)
            if self._pod not in names:
                self._label(self._pod, "true")
        except KubernetesError as error:
            self._next = time.monotonic() + _AGAIN_S
            if str(error) != self._told:
                self._tell(f"the pod that leads cannot be marked: {error}")
            self._told = str(error)
        else:
            self._next, self._told = time.monotonic() + _CHECK_S, ""

    def remove(self) -> None:
        """Take the label off our pod; where that fails, the next leader does it."""
        try:
            self._label(self._pod, None)
        except KubernetesError as error:
            self._tell(f"the mark of the pod that led cannot be removed: {error}")

    def _label(self, name: str, value: str | None) -> None:
        self._api.patch(POD, name, {"metadata": {"labels": {LEADS: value}}}, self._api.namespace)
