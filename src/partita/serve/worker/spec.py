"""The specification with which a worker is started: a JSON document."""

from __future__ import annotations

import json
import re
from sys import float_info
from typing import TYPE_CHECKING, Annotated, TypeAlias

from msgspec import field

from partita.documents.codec import Amount, Count, FieldFault, Meta, Text, Value, Whole, check, to_data
from partita.documents.text import parse_json
from partita.errors import InputError
from partita.files import read_text
from partita.serve.tensors import TensorSpec
from partita.serve.worker.wire import HANG_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEFAULT_INPUTS = (TensorSpec("INPUT0", "FP32", (-1, 16)),)
DEFAULT_OUTPUTS = (TensorSpec("OUTPUT0", "FP32", (-1, 16)),)
GRACE_S = 30.0
LOAD_TIMEOUT_S = 600.0
MOST_ROWS = 65_536
"""Default of the maximum rows of a query, and the highest value of that limit."""

UNNAMED = "0"
"""The token of a specification that no worker has been started with yet."""

HangTimeout = Annotated[float, Meta(ge=1, le=float_info.max, examples=[HANG_TIMEOUT_S])]
"""Seconds; with less than one, a busy host would look like a hang."""
Port = Annotated[int, Meta(ge=0, le=65_535)]
Tensors = Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]


def _address(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no HTTP address", hint="write http://127.0.0.1:8000")


Address = Annotated[Text, check(_address)]


def _placement(text: str) -> None:
    profile, _, start = text.partition("@")
    if not profile or not start.isdecimal():
        raise InputError(f"{text!r} is no placement", hint="write 3g.40gb@4")


def _token(text: str) -> None:
    if not text.isalnum():
        raise InputError("must be letters and digits")


def is_loopback(host: str) -> bool:
    """Say whether an address is this host's own."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


class EmulatedSpec(Value, tag_field="kind", tag="emulated"):
    """An emulated model, which takes as long as the performance table says.

    Attributes:
        inputs: of the model.
        outputs: of the model; an output that matches the input at its position copies it, others are zeros.
        jitter: spread of the log-normal durations; 0 for none.
        slow_down: factor of every duration, to test gateways with slow workers.
    """

    inputs: Tensors = DEFAULT_INPUTS
    outputs: Tensors = DEFAULT_OUTPUTS
    jitter: Amount = 0.0
    slow_down: Amount = 1.0


class OnnxSpec(Value, tag_field="kind", tag="onnx"):
    """A model that ONNX Runtime runs, on the GPU if possible, else on the CPU.

    Attributes:
        path: of the model.
        threads: of each session on the CPU; 0 for one per core.
    """

    path: Text
    threads: Whole = 0


class UpstreamSpec(Value, tag_field="kind", tag="upstream"):
    """A server of the Open Inference Protocol v2 on the instance, already running or started by the worker.

    Attributes:
        url: `http://127.0.0.1:8000`; with a command it may contain `{port}`.
        model: the model's name at the server; None for the worker's model.
        timeout_s: seconds that an answer may take.
        load_timeout_s: seconds until the server must have the model ready.
        command: starts the server, which ends with the worker; may contain `{port}`. Empty if the server runs
        already.
    """

    url: Address
    model: Text | None = None
    timeout_s: Amount = 60.0
    load_timeout_s: Amount = LOAD_TIMEOUT_S
    command: tuple[str, ...] = ()


BackendSpec: TypeAlias = EmulatedSpec | OnnxSpec | UpstreamSpec


class DeclaredBatch(Value):
    """What the owner of a model declares about the first dimension of its tensors.

    Attributes:
        rows: whether it is a batch of independent rows; None if not declared.
        most: maximum rows of a query; None if not declared.
    """

    rows: bool | None = None
    most: Count | None = None


UNDECLARED = DeclaredBatch()


class ListenSpec(Value):
    """Where a worker listens for gateways on other hosts.

    Attributes:
        host: name or address.
        port: TCP port; 0 for a free one, which the log names.
        token_file: file of the token that gateways must know; required beyond loopback.
        cert: file of the certificate (PEM), for TLS.
        key: file of its key.
        health_port: of a page with `/healthz` and `/readyz`, for probes; None for no page.
    """

    host: Text
    port: Port
    token_file: Text | None = None
    cert: Text | None = None
    key: Text | None = None
    health_port: Port | None = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield what is wrong between the fields."""
        if self.token_file is None and not is_loopback(self.host):
            yield FieldFault(
                ("host",),
                f"{self.host} can be reached by others, who could query the model",
                "name the file of a token, token_file or --token-file; make one: openssl rand -hex 32 > FILE",
            )
        if (self.cert is None) != (self.key is None):
            yield FieldFault(("cert",), "TLS needs a certificate and its key", "name the files of both")


class TenantSpec(Value):
    """Another service that a worker serves on its instance; fields as in `WorkerSpec`."""

    service: Text
    model: Text
    batch: Count
    backend: BackendSpec
    seconds: dict[Count, Amount] = field(default_factory=dict)
    declared: DeclaredBatch = UNDECLARED
    retry: bool = True


class WorkerSpec(Value):
    """The specification of a worker.

    Attributes:
        service: that it serves.
        model: name of the model.
        gpu: id of its GPU, such as `node-0/gpu-3`.
        placement: of its instance, such as `3g.40gb@4`.
        batch: the largest batch that it takes.
        processes: number of batches that it runs concurrently.
        backend: of the model.
        folder: of its socket; empty if it listens at an address.
        token: distinguishes its socket from those of earlier and later workers of the instance.
        seconds: expected seconds by batch size, from the performance table.
        grace_s: seconds from SIGTERM for finishing running work.
        supervised: whether to end at the end of standard input, which its supervisor holds open.
        declared: what is declared about the model's batch.
        hang_timeout_s: seconds without a sign of life after which it counts as hung.
        retry: whether its queries may run a second time, elsewhere.
        listen: the address at which it listens, instead of a socket in a folder.
        tenants: other services that share the instance: their batches run in turn with those of `service`.
        gpu_uuid: of its GPU; None if it is not known.
        gpu_instance_id: of its instance on that GPU; None if it is not known.
    """

    service: Text
    model: Text
    gpu: Text
    placement: Annotated[Text, check(_placement)]
    batch: Count
    backend: BackendSpec
    folder: str = ""
    token: Annotated[Text, check(_token)] = UNNAMED
    processes: Count = 1
    seconds: dict[Count, Amount] = field(default_factory=dict)
    grace_s: Amount = GRACE_S
    supervised: bool = False
    declared: DeclaredBatch = UNDECLARED
    hang_timeout_s: HangTimeout = HANG_TIMEOUT_S
    retry: bool = True
    listen: ListenSpec | None = None
    tenants: tuple[TenantSpec, ...] = ()
    gpu_uuid: str | None = None
    gpu_instance_id: Whole | None = None

    def faults(self) -> Iterator[FieldFault]:
        """Yield a fault unless exactly one of `folder` and `listen` is given, or where several services cannot be."""
        if bool(self.folder) == (self.listen is not None):
            yield FieldFault(("folder",), "either folder or listen is needed", "write folder: workers")
        if self.tenants and (self.listen is not None or self.processes > 1):
            what = "services share an instance with sockets in a folder, and with one process"
            yield FieldFault(("tenants",), what, "leave out tenants, or listen and processes")

    @property
    def served(self) -> tuple[WorkerSpec, ...]:
        """One specification for each service, with a socket of its own: this one's, and its tenants'."""
        if not self.tenants:
            return (self,)
        alone = self.replace(tenants=())
        others = (
            alone.replace(
                token=f"{self.token}t{number}",
                **{name: getattr(each, name) for name in each.__struct_fields__},
            )
            for number, each in enumerate(self.tenants, 1)
        )
        return (alone, *others)

    @property
    def profile(self) -> str:
        """Profile of its instance."""
        return self.placement.partition("@")[0]

    @property
    def socket_name(self) -> str:
        """Name of its socket in the folder."""
        return f"{self.gpu.replace('/', '_')}@{self.placement.partition('@')[2]}-{self.token}.sock"

    def text(self) -> str:
        """Return the specification as JSON for `read_spec`."""
        return json.dumps(to_data(self), indent=2)


def read_spec(path: Path | str) -> WorkerSpec:
    """Read the specification of a worker.

    Raises:
        InputError: the file cannot be read, or fields are missing, unknown or wrong.
    """
    return parse_json(read_text(path), WorkerSpec, str(path))


def fill_in(text: str, words: Mapping[str, str | int], hint: str) -> str:
    """Return a URL or a word of a command with its `{names}` filled in.

    Raises:
        InputError: it has an unknown placeholder or is no valid format; `hint` lists the placeholders.
    """
    try:
        return text.format_map(words)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"it cannot be filled in: {error}", where=text, hint=hint) from None
