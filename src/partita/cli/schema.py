"""`partita schema`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from partita.cli.options import Format, emit


class Document(StrEnum):
    """Documents that have a schema."""

    WORKLOAD = "workload"


def schema(
    document: Annotated[Document, typer.Argument(help="Which document.")] = Document.WORKLOAD,
) -> None:
    """Print the JSON schema of a document, with what each field means.

    Editors check and complete a workload with it: `partita schema > workload.schema.json`.
    """
    from partita.workload import workload_schema  # noqa: PLC0415 -- msgspec and yaml are slow to import

    del document
    emit(workload_schema(), Format.JSON)
