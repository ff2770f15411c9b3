"""The screenshots of the documentation, from the demo's cluster at one moment of its evening.

Each is drawn and looked at whenever the tests run, and written to `docs/images` by `make screenshots`.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.dash.browser import Served, until
from tests.dash.demo_day import EVENING, JOBS, LATER_S, demo_day

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, ViewportSize

FOLDER = Path(__file__).parents[2] / "docs" / "images"
WRITE = "PARTITA_SCREENSHOTS"
"""Set in the environment, it has the pictures written."""

SIZE: ViewportSize = {"width": 1280, "height": 800}
FEWEST_BYTES = 20_000
"""A picture of a page without its figures is smaller."""


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["partita", "run", "-f", "day.yaml", "--jobs"])  # what the journal names
        with demo_day(tmp_path_factory.mktemp("demo")) as api, Served(api) as served:
            page = browser.new_page(viewport=SIZE, timezone_id="UTC", locale="en-GB", color_scheme="light")
            page.clock.set_fixed_time(EVENING + LATER_S)
            page.goto(f"http://localhost:{served.port}")
            served.look()
            yield page
            page.close()


def taken(page: Page, name: str) -> None:
    """Take the picture of a page, and see that it is one."""
    picture = page.screenshot()
    assert struct.unpack(">II", picture[16:24]) == tuple(SIZE.values())
    assert len(picture) > FEWEST_BYTES
    assert (FOLDER / name).exists()
    if WRITE in os.environ:
        (FOLDER / name).write_bytes(picture)


def legend(page: Page) -> dict[str, int]:
    """Return how many instances the legend says to be in each state."""
    found = [re.fullmatch(r"(.+?) ([\d,]+)", text) for text in page.locator(".legend li").all_text_contents()]
    return {each[1]: int(each[2].replace(",", "")) for each in found if each}


def test_the_fleet_in_the_evening(page: Page) -> None:
    until(page, "document.querySelector('.connection').textContent === 'live'")
    until(page, f"document.querySelector('.legend')?.textContent.includes('job {len(JOBS)}')")
    until(page, "[...document.querySelectorAll('.tile')].some((one) => /Working[1-9]/.test(one.textContent))")
    counts = legend(page)
    fleet = page.request.get(f"{page.url.partition('#')[0]}api/v1/fleet").json()
    states = Counter(fleet["states"][state] for state in fleet["instances"]["state"])
    assert {name: count for name, count in counts.items() if count} == states
    assert (counts["job"], counts["free"]) == (len(JOBS), 1)
    assert min(counts["serving"], counts["draining"]) > 0
    tiles = [text.split("\n")[:2] for text in page.locator(".tile").all_inner_texts()]
    assert (tiles[0], tiles[3]) == (["GPUs", "24"], ["Instances", str(states.total())])
    # The picture has each of these colours, too.
    colours = {"#1a6dc1", "#e0861a", "#73447d"}
    found = page.evaluate(
        """(wanted) => {
            const canvas = document.querySelector("canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const found = new Set();
            for (let i = 0; i < data.length; i += 4) {
                const bytes = [...data.subarray(i, i + 3)];
                found.add("#" + bytes.map((one) => one.toString(16).padStart(2, "0")).join(""));
            }
            return wanted.filter((one) => found.has(one));
        }""",
        sorted(colours),
    )
    assert set(found) == colours
    taken(page, "dash-fleet.png")


def test_a_transition_half_way(page: Page) -> None:
    page.keyboard.press("4")
    page.wait_for_selector(".gantt .action")
    page.wait_for_selector("main:not(:has-text('Loading …'))")
    text = page.inner_text("main")
    for words in ("19:15:00: running", "34 s\nuntil now", "answer-finder", "as predicted"):
        assert words in text
    assert all(0 < int(done) < int(planned) for done, planned in re.findall(r"Done\n(\d+) of (\d+)", text))
    taken(page, "dash-change.png")
