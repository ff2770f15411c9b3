from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

from typer.testing import CliRunner

from partita.cli.main import app
from partita.perf.operating_point import Limits, operating_points
from partita.perf.reading import read_table

EXAMPLES = Path(str(resources.files("partita.examples")))


def test_the_samples_table_is_remade_by_the_command_that_its_readme_names(tmp_path: Path) -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    (line,) = [line.strip() for line in readme.splitlines() if line.startswith("    partita perf estimate ")]
    made = tmp_path / "perf.csv"
    words = [
        str(EXAMPLES / w) if w == "models.csv" else str(made) if w == "perf.csv" else w
        for w in shlex.split(line)
    ]
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    assert made.read_bytes() == (EXAMPLES / "perf.csv").read_bytes()


def test_the_samples_rows_are_all_marked_as_estimates() -> None:
    assert all(row.estimated for row in read_table(EXAMPLES / "perf.csv"))


def test_every_model_of_the_sample_runs_on_several_profiles() -> None:
    table = read_table(EXAMPLES / "perf.csv")
    for model in table.models:
        assert len(operating_points(table.of(model, "a100-80gb"), Limits(20.0, max_processes=2))) >= 4
