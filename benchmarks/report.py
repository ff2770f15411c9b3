"""Writes tables of benchmarks into named sections of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def table(header: list[str], rows: list[list[object]]) -> str:
    """Return a Markdown table; numbers are shown with four significant digits."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def stamp() -> str:
    """Return the date and the machine, in words."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Measured on {datetime.now(tz=UTC):%Y-%m-%d} on {os.cpu_count()} shared cores of {model} with "
        f"{memory:.0f} GiB, Python {platform.python_version()}."
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write_section(name: str, text: str) -> None:
    """Replace the section of that name on the page, or add it at the end."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    body = f"{begin}{text.strip()}\n\n{stamp()}\n{end}"
    if begin in page:
        before, rest = page.split(begin, 1)
        page = before + body + rest.split(end, 1)[1]
    else:
        page = f"{page.rstrip()}\n\n{body}"
    PAGE.write_text(page)
