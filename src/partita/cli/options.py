"""Options that several commands share, and how the values that users write are read and shown."""

from __future__ import annotations

import csv
import os
import re
import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from partita import registry
from partita.errors import InputError
from partita.files import home

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from partita.mig.gpu import GpuModel


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)", re.IGNORECASE)
_LIMIT = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def read_bytes(text: str, where: str) -> int:
    """Read `12GiB` (2^30), `12GB` (10^9), `12G` (2^30, as NVIDIA's tools count) or `12B`.

    Raises:
        InputError: it is no size, or a number without a unit, which each would take for another.
    """
    number = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", number) and float(number) > 0:
        raise InputError(f"{number} has no unit", where=where, hint=f"write {number}GiB or {number}MiB")
    found = _SIZE.fullmatch(number)
    if found is None or float(found[1]) <= 0:
        raise InputError(f"{text!r} is not a size", where=where, hint="write 12GiB or 900MiB")
    power = " KMGT".index((found[2] or " ").upper())
    decimal = text.strip().upper().endswith("B") and not found[3]
    return int(float(found[1]) * (1000 if decimal else 1024) ** power)


def read_seconds(text: str, where: str) -> float:
    """Read `2h`, `1h30m`, `45s`, `2d`, or seconds as `90`.

    Raises:
        InputError: it is no time.
    """
    written = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", written):
        return float(written)
    parts = _TIME.findall(written)
    if not parts or _TIME.sub("", written).strip():
        raise InputError(f"{text!r} is not a time", where=where, hint="write 2h, 1h30m or 45s")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def read_limit(text: str, where: str) -> float:
    """Read a time limit as Slurm has it (`90` minutes, `30:00`, `2:30:00`, `1-12`, `1-12:00`), or as `90m`, `2h30m`.

    Returns:
        Seconds; 0 for `unlimited`.

    Raises:
        InputError: it is no time, or none at all.
    """
    written = text.strip()
    found = _LIMIT.fullmatch(written)
    if written.lower() == "unlimited":
        return 0.0
    seconds = _clocked(*found.groups()) if found is not None else read_seconds(written, where)
    if not seconds:
        raise InputError(
            "the limit is zero", where=where, hint="leave it out, or write unlimited, for no limit"
        )
    return seconds


def _clocked(days: str | None, *parts: str | None) -> float:
    # With days the first number is hours, else minutes, unless all three are there.
    given = [int(part) for part in parts if part is not None]
    units = [3600.0, 60.0, 1.0] if days is not None or len(given) == 3 else [60.0, 1.0]
    return int(days or 0) * 86400.0 + sum(n * unit for n, unit in zip(given, units, strict=False))


def shown_bytes(size: float | None) -> str:
    """Return a size for people; `-` if it is not known."""
    if size is None:
        return "-"
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def shown_seconds(seconds: float | None) -> str:
    """Return a time for people: `45 s`, `12:30`, `2:05:00`, `3 d 02:00`; `-` if it is not known."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shown_moment(at: float | None, now: float) -> str:
    """Return a moment: the time of day, with the date if it is another day's; `-` if it is not known."""
    if at is None:
        return "-"
    from datetime import datetime  # noqa: PLC0415 -- only where a moment is shown

    moment, today = datetime.fromtimestamp(at).astimezone(), datetime.fromtimestamp(now).astimezone()
    return moment.strftime("%H:%M:%S" if moment.date() == today.date() else "%m-%d %H:%M")


def pairs(given: Iterable[str] | None, option: str) -> dict[str, str]:
    """Return the pairs of an option that may be given several times, each with pairs between commas.

    A value that holds a comma stands in double quotes, as in CSV.

    Raises:
        InputError: something else than NAME=VALUE, or a name twice; `where` is `option`.
    """
    found: dict[str, str] = {}
    for part in (
        each for text in given or () for each in next(csv.reader([text], skipinitialspace=True), [])
    ):
        name, equals, value = part.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise InputError(
                f"{part!r} is not NAME=VALUE", where=option, hint=f"for example {option} a=b,c=d"
            )
        if name.strip() in found:
            raise InputError(f"{name.strip()} appears twice", where=option)
        found[name.strip()] = value.strip()
    return found


def _names(group: str) -> Any:  # noqa: ANN401 -- a type that is made when it runs
    """Return the type of an option that takes a registered name: `--help` lists them, and shells complete them."""
    return Literal[registry.names(group)]


if TYPE_CHECKING:
    PlannerName = str
    AlgorithmName = str
    RouterName = str
    CutName = str
    DriverName = str
else:
    PlannerName = _names("planners")
    AlgorithmName = _names("transition_algorithms")
    RouterName = _names("routers")
    CutName = _names("cuts")
    DriverName = _names("drivers")

Planner = Annotated[
    PlannerName,
    typer.Option("--planner", help="Algorithm; exact proves its plan."),
]
TimeLimit = Annotated[
    float, typer.Option(min=0.1, help="Seconds of search; then the best plan so far is returned.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random choices: same input and seed, same plan.")]
Algorithm = Annotated[
    AlgorithmName,
    typer.Option(
        "--algorithm", help="How the transition is ordered: shortest, or the paper's exchange-compact."
    ),
]
ExtraGpus = Annotated[
    int | None,
    typer.Option(
        "--extra-gpus",
        min=0,
        help="Most GPUs in use during the transition beyond those used before or after. (default: no limit)",
    ),
]

Forbid = Annotated[
    list[str] | None,
    typer.Option(
        "--forbid",
        metavar="COMBINATION",
        help="Combination that no GPU may hold during the transition, as in 4g+3g. Repeatable. "
        "(plans do not record it)",
    ),
]


# Of a Kubernetes cluster.

Kubeconfig = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Kubeconfig. (default: KUBECONFIG, ~/.kube/config, or the pod's own account)"
    ),
]
KubeContext = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Context of the kubeconfig. (default: its current one)"),
]
KubeNamespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="Namespace in the cluster. (default: the context's)"
    ),
]


# Of gateways.


class LogFormat(StrEnum):
    """What log lines look like."""

    TEXT = "text"
    JSON = "json"


Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        help="Address to listen on; beyond this host, a token or TLS is needed.",
    ),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65_535, help="HTTP port; 0 takes a free one.")]
GrpcPort = Annotated[
    int, typer.Option("--grpc-port", min=0, max=65_535, help="gRPC port; 0 takes a free one.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="Require this bearer token of every request but those for health.",
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate (PEM): serve TLS.")
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).")]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-client-ca", metavar="FILE", help="Accept only clients with certificates of this CA (PEM)."
    ),
]
MaxBody = Annotated[
    float, typer.Option("--max-body", metavar="MIB", min=0.01, max=1023, help="Largest request, in MiB.")
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace", min=0.0, max=86_400, help="Seconds to finish what is under way when told to stop."
    ),
]
Otlp = Annotated[
    str | None,
    typer.Option(
        "--otlp",
        metavar="URL",
        help="Send spans of requests to this OpenTelemetry collector (OTLP over HTTP): http://localhost:4318.",
    ),
]
LogForm = Annotated[LogFormat, typer.Option("--log-format", help="Log lines on stderr: for people, or JSON.")]
Router = Annotated[
    RouterName, typer.Option(help="Policy that gives queries to slices; kairos is for simulations only.")
]


_TO_SERVE = (
    "httptools", "uvloop", "orjson", "grpc", "grpc_health", "grpc_reflection", "google.protobuf",
    "prometheus_client",
)  # fmt: skip


def need_packages_to_serve() -> None:
    """Refuse to go on without what a gateway imports, before it is imported.

    Raises:
        InputError: says what is missing.
    """
    if missing := [name for name in _TO_SERVE if find_spec(name.partition(".")[0]) is None]:
        raise InputError(f"{', '.join(missing)} is not installed", hint='pip install "partita[serve]"')
    # Else gRPC's core writes lines of its own on stderr, one for each client with a wrong certificate.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


OPTION = "--gpus-file"
VARIABLE = "PARTITA_CONFIG"

GpusFile = Annotated[
    list[Path] | None,
    typer.Option(
        OPTION,
        metavar="FILE",
        envvar="PARTITA_GPUS_FILE",
        help="GPU of your own (TOML), as `partita gpus show NAME --toml` writes it. Repeatable, in any position.",
    ),
]


def gpus_folder() -> Path:
    """Return the folder whose TOML files are GPUs of the user's own; it need not be there.

    It is `gpus` in `PARTITA_CONFIG`, or in `partita` under the user's configuration folder (XDG Base Directory
    Specification).
    """
    asked = os.environ.get(VARIABLE)
    if asked:
        return Path(asked).expanduser() / "gpus"
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification has relative paths ignored.
    root = Path(base) if Path(base).is_absolute() else home() / ".config"
    return root / "partita" / "gpus"


def use_gpu_files(named: Sequence[Path]) -> None:
    """Have this process know the GPUs of these files and of the configuration folder, and no others' from before.

    Raises:
        InputError: a file cannot be used, or two of them have one GPU.
    """
    folder = gpus_folder()
    # With another user's HOME, as `sudo` may leave it, the folder is not this user's, and need not be readable.
    readable = os.access(folder, os.R_OK | os.X_OK, effective_ids=True)
    in_folder = sorted(folder.glob("*.toml")) if readable else []
    if not (named or in_folder or "partita.mig.catalogue" in sys.modules):
        return  # a command that only shows its help needs no catalogue
    from partita.mig import catalogue  # noqa: PLC0415 -- as above

    catalogue.reset()
    catalogue.add([*_read(in_folder), *_read(named)])  # what is named comes before what lies there


def _read(paths: Sequence[Path]) -> list[GpuModel]:
    from partita.errors import InputError  # noqa: PLC0415
    from partita.mig.catalogue import read_gpu  # noqa: PLC0415

    found: dict[str, GpuModel] = {}
    for path in paths:
        gpu = read_gpu(path)
        if gpu.name in found:
            raise InputError(
                f"{gpu.name} is in {found[gpu.name].origin} too",
                where=str(path),
                hint="give one of them another name, or leave it out",
            )
        found[gpu.name] = gpu
    return list(found.values())


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line with `--gpus-file` in front, wherever it stands before a `--`.

    Words behind `submit` are left alone: they may be a job's command.
    """
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in ("--", "submit"):
            return [*front, *rest, word, *words]
        if word == OPTION:
            front += [word, *[value for value in [next(words, None)] if value is not None]]
        elif word.startswith(f"{OPTION}="):
            front.append(word)
        else:
            rest.append(word)
    return [*front, *rest]
