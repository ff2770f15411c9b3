"""What HTTP and gRPC share: models by name with their signatures, and how refusals and failures are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from partita.serve.gateway.oip.faults import RequestError, shown
from partita.serve.gateway.oip.limits import Limits
from partita.serve.gateway.oip.signature import Signature
from partita.serve.gateway.oip.version import VERSION
from partita.serve.gateway.values import FailedError, Reason, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.serve.gateway.gateway import Gateway
    from partita.serve.gateway.values import Model
    from partita.serve.tensors import Answer


class Front:
    """The gateway as the protocol's two transports see it.

    Args:
        gateway: answers.
        services: names of all services.
        limits: what is too large.
    """

    def __init__(self, gateway: Gateway, services: Sequence[str], limits: Limits | None = None) -> None:
        self.gateway = gateway
        self.services = tuple(services)
        self.limits = limits or Limits()
        self._signatures: dict[str, Signature] = {}

    def model(self, service: str, version: str = "") -> Model:
        """Return a service's model.

        Raises:
            RequestError: there is no such service or version.
        """
        model = self.gateway.model(service)
        if model is None:
            raise RequestError(f"no model {shown(service)}; POST /v2/repository/index lists them", 404)
        if version not in ("", VERSION):
            raise RequestError(f"no version {shown(version)} of {service}; there is {VERSION}", 404)
        return model

    def described(self, service: str, version: str = "") -> Model:
        """Return a service's model once its inputs and outputs are known.

        Raises:
            RequestError: there is no such service or version.
            RefusedError: no worker has been there yet to tell.
        """
        model = self.model(service, version)
        if not model.known:
            raise RefusedError(Reason.NO_WORKER, 1.0)
        return model

    def signature(self, service: str, version: str = "") -> Signature:
        """Return what requests to a service are checked against; raises as `described` does."""
        model = self.described(service, version)
        known = self._signatures.get(service)
        if known is None or known.model is not model:
            known = self._signatures[service] = Signature(model)
        return known

    @property
    def ready(self) -> bool:
        """Whether every service has a worker."""
        return all(map(self.gateway.ready, self.services))


def checked(answer: Answer) -> Answer:
    """Return an answer that holds outputs.

    Raises:
        RequestError: the worker says that the query itself is wrong.
        FailedError: the worker failed it.
    """
    if answer.error is None:
        return answer
    if answer.invalid:
        raise RequestError(answer.error, reason="model")
    raise FailedError(answer.error)
