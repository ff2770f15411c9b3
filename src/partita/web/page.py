"""A report as one file that loads nothing: the bundle, its document, and a summary for those without scripts.

The bundle is that of the dashboard: it finds the document in the page and asks no server.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import time
from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import msgspec

from partita import __version__
from partita.dash.model import Index, Part, Role
from partita.errors import counted
from partita.web.report import Column, ColumnKind, Report, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_UNPACK = (
    "const packed = Uint8Array.from(atob(document.body.dataset.page), (one) => one.charCodeAt(0));"
    'const whole = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));'
    "new Response(whole).text().then((page) => { document.open(); document.write(page); document.close(); });"
)
"""What makes a packed page of a frame: notebooks are stored, and packed it takes less than half."""
DOCUMENTS = "partita-documents"
"""Id of the element with the documents, as the bundle knows it."""
_MOST_ROWS = 40
_STYLE = """
.partita { font: 14px/1.5 system-ui, sans-serif; max-width: 80em; }
.partita h3 { margin: 0.3em 0; }
.partita dl { display: flex; flex-wrap: wrap; gap: 0.3em 1.6em; margin: 0.6em 0; }
.partita dt { font-size: 12px; opacity: 0.75; }
.partita dd { margin: 0; font-weight: 600; }
.partita table { border-collapse: collapse; margin: 0.6em 0; }
.partita th, .partita td { padding: 0.15em 0.8em 0.15em 0; text-align: left; }
.partita iframe { width: 100%; height: 44em; border: 1px solid #8888; margin-top: 0.5em; }
.partita summary { cursor: pointer; }
"""


def page(report: Report, workload: str | None = None) -> str:
    """Return the file.

    Args:
        report: to show; it says now as its time where it says none.
        workload: name of what was planned, where the report does not say it.
    """
    stamped = report.replace(workload=report.workload or workload, made=report.made or time.time())
    return _file(stamped)


def fragment(report: Report) -> str:
    """Return a part of another page, such as a notebook: the summary, and the whole report in a frame to be opened.

    It says no time, since notebooks are stored and compared. Its styles do not affect the rest of the page.
    """
    title = escape(report.title)
    packed = base64.b64encode(gzip.compress(_file(report).encode(), mtime=0)).decode()
    frame = escape(f'<!doctype html><body data-page="{packed}"><script>{_UNPACK}</script>')
    return "\n".join(
        (
            f"<div class=partita><style>{_STYLE}</style>",
            *_summary(report, "h3"),
            "<details><summary>The whole report: sort, filter, look closer</summary>",
            f'<iframe sandbox="allow-scripts" loading="lazy" title="{title}" srcdoc="{frame}"></iframe>',
            "</details></div>",
        )
    )


def table_report(title: str, columns: Mapping[str, Sequence[Any]]) -> Report:
    """Return a report of one table, from columns of numbers and texts."""
    n = len(next(iter(columns.values()), ()))
    return Report(
        title=title,
        headline=title,
        verdict="",
        good=True,
        figures=(),
        sections=(
            Section(title=counted(n, "row"), table=Table(tuple(_column(*each) for each in columns.items()))),
        ),
        footer="",
        version=__version__,
    )


def _column(name: str, values: Sequence[Any]) -> Column:
    numbers = all(value is None or type(value) in {int, float} for value in values)
    kind = ColumnKind.NUMBER if numbers else ColumnKind.TEXT
    return Column(
        name, kind, tuple(each if numbers or each is None else str(each) for each in values), none=""
    )


def _file(report: Report) -> str:
    bundle = resources.files("partita.dash").joinpath("bundle")
    script, style = (bundle.joinpath(name).read_text(encoding="utf-8") for name in ("app.js", "app.css"))
    documents = {
        "": Index(
            version=report.version,
            cluster=report.title,
            workload=report.workload,
            now=report.made or 0.0,
            role=Role.READ,
            parts=(Part.FLEET,) if any(each.gpus is not None for each in report.sections) else (),
            state="",
            last_event=0,
        ),
        "report": report,
    }
    # Nothing in the data may end the element, nor begin another one.
    data = msgspec.json.encode({"documents": documents}).decode().replace("<", "\\u003c")
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{known}'; style-src 'unsafe-inline'; img-src data:"
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(report.title)}</title>\n<style>{style}</style>",
            '<body><div id="app"></div>\n<noscript><main class=partita>',
            *_summary(report, "h1"),
            "</main></noscript>",
            f'<script type="application/json" id="{DOCUMENTS}">{data}</script>',
            f"<script>{script}</script>\n</body></html>\n",
        )
    )


def _summary(report: Report, heading: str) -> Iterator[str]:
    """Yield what stands at the top of a report, and its first table."""
    verdict = f", {escape(report.verdict)}" if report.verdict else ""
    yield f"<{heading}>{escape(report.headline)}{verdict}</{heading}>"
    said = [] if report.workload is None else [report.workload]
    if report.made is not None:
        said.append(f"{datetime.fromtimestamp(report.made, UTC):%Y-%m-%d %H:%M} UTC")
    if said:
        yield f"<p>{escape(', '.join(said))}</p>"
    yield from (f"<p>{escape(text)}</p>" for text in report.notes)
    if report.figures:
        figures = (
            f"<div><dt>{escape(each.name)}</dt><dd>{escape(each.text)}</dd></div>" for each in report.figures
        )
        yield f"<dl>{''.join(figures)}</dl>"
    table = next((each.table for each in report.sections if each.table is not None), None)
    if table is not None:
        yield from _rows(table)


def _rows(table: Table) -> Iterator[str]:
    n = len(table.columns[0].values)
    names = "".join(f"<th>{escape(each.name)}</th>" for each in table.columns)
    yield f"<table><thead><tr>{names}</tr></thead><tbody>"
    for row in range(min(n, _MOST_ROWS)):
        yield f"<tr>{''.join(f'<td>{escape(_cell(each, row))}</td>' for each in table.columns)}</tr>"
    yield "</tbody></table>"
    left = n - _MOST_ROWS + table.left
    if left > 0:
        yield f"<p>{left:,} more rows are in the whole report.</p>"


def _cell(column: Column, row: int) -> str:
    value = column.values[row]
    if value is None:
        return column.none
    if isinstance(value, str):
        return value
    about = "\N{ALMOST EQUAL TO}" if row in column.estimated else ""
    if column.kind is ColumnKind.NUMBER:
        return f"{about}{value:,.{column.digits}g}"
    sign = "+z" if column.kind is ColumnKind.CHANGE else ""
    return f"{about}{value * 100:{sign}.{column.digits}f} %"
