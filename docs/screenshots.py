"""Makes the screenshots of the documentation from `partita dash --demo`: `python -m docs.screenshots`.

It needs chromium (Debian's package), and takes a minute and a half: long enough for the evening's transition to run.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
EVENING_S = 95.0
"""After so many seconds capacity is being given back."""

PAGES = {"fleet": "#/fleet", "change": "#/change"}


def main() -> None:
    """Start the demo, and take a picture of each page."""
    FOLDER.mkdir(exist_ok=True)
    command = [sys.executable, "-u", "-m", "partita", "dash", "--demo", "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        try:
            said = demo.stdout.readline() if demo.stdout else ""
            found = re.search(r"http://\S+", said)
            if found is None:
                sys.exit(f"no address was told: {said!r}")
            page = browser.new_page(viewport={"width": 1200, "height": 750}, color_scheme="light")
            time.sleep(EVENING_S)
            for name, where in PAGES.items():
                page.goto(f"{found[0]}{where}")
                page.wait_for_load_state("load")
                page.wait_for_timeout(2500)
                page.screenshot(path=FOLDER / f"dash-{name}.png")
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(60)


if __name__ == "__main__":
    main()
