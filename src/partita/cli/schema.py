"""`partita schema`."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import Annotated

import typer

from partita.cli.options import Format, emit
from partita.documents.codec import schema as schema_of


class PublishedDocument(StrEnum):
    """Documents that have a schema."""

    WORKLOAD = "workload"
    PLAN = "plan"
    LAYOUTS = "layouts"
    TRANSITION = "transition"
    SERVICES = "services"
    GPU = "gpu"
    RATES = "rates"


_TYPES = {
    PublishedDocument.WORKLOAD: ("partita.workload", "WORKLOAD"),
    PublishedDocument.PLAN: ("partita.planning.document", "PLAN"),
    PublishedDocument.LAYOUTS: ("partita.transition.document", "LAYOUTS"),
    PublishedDocument.TRANSITION: ("partita.transition.document", "TRANSITION"),
    PublishedDocument.SERVICES: ("partita.serve.services", "ServicesDocument"),
    PublishedDocument.GPU: ("partita.mig.catalogue", "GpuTable"),
    PublishedDocument.RATES: ("partita.control.rates", "RatesDocument"),
}
"""Where each document's type is; its module is imported when it is asked for."""


def schema(
    document: Annotated[
        PublishedDocument, typer.Argument(help="Which document.")
    ] = PublishedDocument.WORKLOAD,
) -> None:
    """Print the JSON schema of a document, with what each field means.

    Editors check and complete a workload with it: `partita schema > workload.schema.json`.
    """
    module, name = _TYPES[document]
    emit(schema_of(getattr(import_module(module), name)), Format.JSON)
