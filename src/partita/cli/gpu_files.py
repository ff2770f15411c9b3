"""GPUs of a user's own: files that `--gpus-file` names, and those in the configuration folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from partita.mig.gpu import GpuModel

OPTION = "--gpus-file"
VARIABLE = "PARTITA_CONFIG"

GpusFile = Annotated[
    list[Path] | None,
    typer.Option(
        OPTION,
        metavar="FILE",
        envvar="PARTITA_GPUS_FILE",
        help="GPU of your own (TOML), as `partita gpus show NAME --toml` writes it. Repeatable, anywhere.",
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
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return root / "partita" / "gpus"


def use_gpu_files(named: Sequence[Path]) -> None:
    """Have this process know the GPUs of these files and of the configuration folder, and no others' from before.

    Raises:
        InputError: a file cannot be used, or two of them have one GPU.
    """
    from partita.mig import catalogue  # noqa: PLC0415 -- not for --help

    catalogue.reset()
    folder = gpus_folder()
    in_folder = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    if named or in_folder:
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
