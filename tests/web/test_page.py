from __future__ import annotations

import base64
import gzip
import hashlib
import re
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from tests.web.reading import Page
from tests.web.test_plan_report import plan, report
from tests.web.test_transition_report import report as transition_report
from tests.web.test_transition_report import request

from partita.web.page import fragment, page, table_report

if TYPE_CHECKING:
    from partita.web.report import Report

BUNDLE = re.compile(r"<script>(.*)</script>", re.DOTALL)


def own(html: str) -> str:
    """Return a page without the bundle."""
    return BUNDLE.sub("", html)


def test_a_page_loads_nothing_and_may_load_nothing() -> None:
    html = page(report(plan("resnet50", "bert")))
    assert not re.search(r"url\(|@import|https?://", own(html))
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"img", "iframe", "object", "embed"}
    assert not [a for tag, a in tags if "src" in a or (tag == "link" and a["href"] != "data:,")]
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    script = BUNDLE.search(html)
    assert script is not None
    known = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{known}'; style-src 'unsafe-inline'; img-src data:"
    )


def test_a_page_says_which_workload_and_when() -> None:
    shown = Page(page(report(plan("bert")), "day.yaml"))
    assert shown.report.workload == "day.yaml"
    assert shown.report.made is not None
    assert shown.documents[""]["workload"] == "day.yaml"
    assert re.search(r"day\.yaml, \d{4}-\d\d-\d\d \d\d:\d\d UTC", shown.text)
    told = Page(page(report(plan("bert")).replace(workload="a", made=0.0), "b")).report
    assert told.workload == "a"


def test_a_page_is_readable_without_scripts() -> None:
    text = Page(page(report(plan(*(f"service-{n}" for n in range(100)))))).text
    assert "3 GPUs, proven optimal (bound 3)" in text
    assert "service-0" in text
    assert "+20 %" in text
    assert "60 more rows are in the whole report." in text


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1))
def test_names_are_text_wherever_they_stand(name: str) -> None:
    odd = "</script><script>alert('1')</script><!--\"&" + name

    def tried(of: Report) -> None:
        html = page(of, odd)
        shown = Page(html)
        scripts = [a for tag, a in shown.tags if tag == "script"]
        assert [a.get("type") for a in scripts] == ["application/json", None]
        assert odd in shown.text
        assert shown.report.workload == odd
        assert "<!--" not in own(html)

    tried(report(plan(odd)))
    tried(transition_report(request(first=odd)))
    embedded = fragment(report(plan(odd)))
    assert "<script" not in embedded
    assert odd in Page(embedded).text


def test_a_fragment_has_a_summary_and_the_whole_page_in_a_frame_that_may_only_run_scripts() -> None:
    shown = Page(fragment(report(plan("bert"))))
    frame = next(a for tag, a in shown.tags if tag == "iframe")
    assert frame["sandbox"] == "allow-scripts"
    packed = Page(str(frame["srcdoc"])).tags[0][1]["data-page"]
    inside = Page(gzip.decompress(base64.b64decode(str(packed))).decode())
    assert inside.report.headline == "3 GPUs"
    assert inside.report.made is None
    assert "proven optimal" in shown.text
    assert fragment(report(plan("bert"))) == fragment(report(plan("bert")))


def test_any_columns_make_a_report() -> None:
    table = table_report("Rows", {"name": ["a", True], "n": [1, None], "odd": [1, "x"]}).sections[0].table
    assert table is not None
    assert [each.kind.value for each in table.columns] == ["text", "number", "text"]
    assert [each.values for each in table.columns] == [("a", "True"), (1, None), ("1", "x")]
    assert "more rows" not in Page(page(table_report("Nothing", {"name": []}))).text
