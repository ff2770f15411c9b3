"""Run the notebook of docs/ and keep what its cells show: `python -m docs.notebook [--check]`.

With `--check` nothing is written: a cell that fails, or shows something else than what is kept, is named. Drawings
and frames may differ with another version of the solver; compared are the kind of each output, and text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

PATH = Path(__file__).resolve().parent / "library.ipynb"


def run(notebook: Any) -> Any:  # noqa: ANN401 -- nbformat's own type
    """Return the notebook with what its cells show now, and nothing of when or where.

    Raises:
        CellExecutionError: a cell failed.
    """
    made = nbformat.from_dict(notebook)
    NotebookClient(
        made, timeout=120, kernel_name="python3", resources={"metadata": {"path": PATH.parent}}
    ).execute()
    for cell in made.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    made.metadata = {"language_info": {"name": "python"}, "kernelspec": notebook["metadata"]["kernelspec"]}
    return made


def shape(notebook: Any) -> list[tuple[str, list[object]]]:  # noqa: ANN401 -- as above
    """Return what must not change: the sources, and of each output its kinds, with texts that are no drawings."""
    return [(cell.source, [_kinds(output) for output in cell.get("outputs", ())]) for cell in notebook.cells]


def _kinds(output: Any) -> object:  # noqa: ANN401 -- as above
    data = output.get("data", {})
    return sorted(data) if "text/html" in data else data.get("text/plain", output.get("text"))


def main() -> None:
    """Run it, and write or compare."""
    parser = argparse.ArgumentParser(description="Run the notebook of docs/.")
    parser.add_argument("--check", action="store_true", help="change nothing; name what is stale")
    check = parser.parse_args().check
    kept = nbformat.read(PATH, as_version=4)
    try:
        made = run(kept)
    except CellExecutionError as error:
        sys.exit(f"docs/library.ipynb: {error}")
    if not check:
        nbformat.write(made, PATH)
    elif shape(made) != shape(kept):
        sys.exit("docs/library.ipynb is stale: run `python -m docs.notebook`")


if __name__ == "__main__":
    main()
