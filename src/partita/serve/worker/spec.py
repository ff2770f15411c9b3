"""What a worker is started with: a JSON document, written by whoever starts it."""

from __future__ import annotations

import json
from sys import float_info
from typing import TYPE_CHECKING, Annotated, TypeAlias

from msgspec import field

from partita.documents.codec import Amount, Count, Meta, Text, Value, Whole, check, to_data
from partita.documents.text import parse_json
from partita.errors import InputError
from partita.files import read_text
from partita.serve.tensors import TensorSpec
from partita.serve.worker.wire import HANG_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_INPUTS = (TensorSpec("INPUT0", "FP32", (-1, 16)),)
DEFAULT_OUTPUTS = (TensorSpec("OUTPUT0", "FP32", (-1, 16)),)
GRACE_S = 30.0
LOAD_TIMEOUT_S = 600.0
MOST_ROWS = 65_536
"""Rows that a query may have where whoever owns the model sets no limit, and the highest limit."""

HangTimeout = Annotated[float, Meta(ge=1, le=float_info.max, examples=[HANG_TIMEOUT_S])]
"""Seconds; fewer, and a busy host would look like a hang."""
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


class EmulatedSpec(Value, tag_field="kind", tag="emulated"):
    """A worker that takes as long as the performance table says, and answers with what it was asked.

    Attributes:
        inputs: what it takes.
        outputs: what it gives: one alike to the input of its place is that input again, any other is zeros.
        jitter: spread of the log-normal durations; 0 for none.
        slow_down: factor on every duration, to see what a slow worker does to its gateway.
    """

    inputs: Tensors = DEFAULT_INPUTS
    outputs: Tensors = DEFAULT_OUTPUTS
    jitter: Amount = 0.0
    slow_down: Amount = 1.0


class OnnxSpec(Value, tag_field="kind", tag="onnx"):
    """A model that ONNX Runtime runs: on its GPU where it can, else on the CPU.

    Attributes:
        path: of the model.
        threads: of each session on the CPU; 0 takes one for each core.
    """

    path: Text
    threads: Whole = 0


class UpstreamSpec(Value, tag_field="kind", tag="upstream"):
    """A server of the Open Inference Protocol v2 on that instance: one that runs already, or that is started.

    Attributes:
        url: `http://127.0.0.1:8000`; may name `{port}` where there is a command.
        model: the model's name there; the worker's own if None.
        timeout_s: seconds that an answer may take.
        load_timeout_s: seconds that the server may take to have the model ready.
        command: starts the server, which lives as long as the worker; may name `{port}`. Empty if it runs already.
    """

    url: Address
    model: Text | None = None
    timeout_s: Amount = 60.0
    load_timeout_s: Amount = LOAD_TIMEOUT_S
    command: tuple[str, ...] = ()


BackendSpec: TypeAlias = EmulatedSpec | OnnxSpec | UpstreamSpec


class DeclaredBatch(Value):
    """What whoever owns a model says of the first dimension of its tensors.

    Attributes:
        rows: whether it is a batch, of rows that do not influence each other; None if nothing is said.
        most: rows that a query may have; None if nothing is said.
    """

    rows: bool | None = None
    most: Count | None = None


UNDECLARED = DeclaredBatch()


class WorkerSpec(Value):
    """What a worker is.

    Attributes:
        service: whose queries it answers.
        model: name of the model.
        gpu: id of its GPU, as `node-0/gpu-3`.
        placement: its instance there, as `3g.40gb@4`.
        batch: the largest batch it takes.
        processes: batches it runs side by side.
        backend: what runs the model.
        folder: where its socket goes.
        token: tells its socket from those of other workers of that instance, before and after it.
        seconds: expected seconds of some batch sizes, from the performance table.
        grace_s: seconds from SIGTERM for finishing what it has.
        supervised: whether it is to end when its standard input does, which whoever started it holds open.
        declared: what is said of the model's batch.
        hang_timeout_s: seconds without a sign of life after which it is held to hang.
        retry: whether its queries may run a second time, elsewhere.
    """

    service: Text
    model: Text
    gpu: Text
    placement: Annotated[Text, check(_placement)]
    batch: Count
    backend: BackendSpec
    folder: Text
    token: Annotated[Text, check(_token)]
    processes: Count = 1
    seconds: dict[Count, Amount] = field(default_factory=dict)
    grace_s: Amount = GRACE_S
    supervised: bool = False
    declared: DeclaredBatch = UNDECLARED
    hang_timeout_s: HangTimeout = HANG_TIMEOUT_S
    retry: bool = True

    @property
    def profile(self) -> str:
        """Profile of its instance."""
        return self.placement.partition("@")[0]

    @property
    def socket_name(self) -> str:
        """Name of its socket in the folder."""
        return f"{self.gpu.replace('/', '_')}@{self.placement.partition('@')[2]}-{self.token}.sock"

    def text(self) -> str:
        """Return it as JSON, which `read_spec` reads."""
        return json.dumps(to_data(self), indent=2)


def read_spec(path: Path | str) -> WorkerSpec:
    """Read what a worker is started with.

    Raises:
        InputError: the file cannot be read, or fields are missing, unknown or wrong.
    """
    return parse_json(read_text(path), WorkerSpec, str(path))


def fill_in(text: str, words: Mapping[str, str | int], hint: str) -> str:
    """Return a URL or a word of a command with its `{names}` filled in.

    Raises:
        InputError: it names what is not among the words, or is no format; `hint` says what it may name.
    """
    try:
        return text.format_map(words)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"it cannot be filled in: {error}", where=text, hint=hint) from None
