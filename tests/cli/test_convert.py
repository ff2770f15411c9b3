from __future__ import annotations

import json

from typer.testing import CliRunner

from partita.cli.convert import PublishedDocument
from partita.cli.main import app
from partita.documents.codec import schema as schema_of
from partita.workload import WORKLOAD


def test_the_schema_of_the_workload_goes_to_stdout_as_json() -> None:
    result = CliRunner().invoke(app, ["schema", "workload"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == schema_of(WORKLOAD)


def test_the_workload_is_what_is_printed_where_no_document_is_named() -> None:
    assert (
        CliRunner().invoke(app, ["schema"]).stdout == CliRunner().invoke(app, ["schema", "workload"]).stdout
    )


def test_a_document_without_schema_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["schema", "nothing"])
    assert result.exit_code == 2
    assert "workload" in result.stderr


def test_every_published_document_has_a_schema() -> None:
    for name in PublishedDocument:
        result = CliRunner().invoke(app, ["schema", name])
        assert result.exit_code == 0, name
        assert json.loads(result.stdout)["type"] == "object"
