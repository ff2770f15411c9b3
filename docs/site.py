"""What `make site` adds to the pages: the notebook as a page, and texts in place of links to files beyond docs/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

DOCS = Path(__file__).resolve().parent
NOTEBOOK, PAGE = "library.ipynb", "library-notebook.md"
_BEYOND = re.compile(r"\[([^\]]*)\]\((?:\.\./)[^)]*\)")
"""A link to a file that the site does not have."""


def on_files(files: Any, config: Any) -> Any:  # noqa: ANN401 -- mkdocs calls it with its own
    """Add the notebook's page."""
    files.append(File.generated(config, PAGE, content=notebook_page(DOCS / NOTEBOOK)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401 -- as above
    """Return a page whose links stay within the site."""
    return _BEYOND.sub(r"\1", markdown).replace(f"({NOTEBOOK})", f"({PAGE})")


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its texts, its code, and what each cell shows."""
    parts: list[str] = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [shown for output in cell["outputs"] if (shown := _shown(output))]
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        html = "".join(data["text/html"])
        return '<div class="notebook-output">' + re.sub(r"\n\s*\n", "\n", html) + "</div>"
    text = "".join(data.get("text/plain", output.get("text", "")))
    return f"```text\n{text}\n```" if text else ""
