"""A page in headless Chromium: what a script of the test's own finds there."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
"""Of every start: no window, and nothing from the network."""


def answers(page: Path, script: str, scratch: Path, *flags: str) -> dict[str, Any]:
    """Open a page, run a script at its end, and read what it leaves as JSON in the page's title.

    Args:
        page: an HTML file.
        script: statements; `answer(value)` tells the test. Its value gets `errors`, what the page itself threw.
        scratch: a folder for the browser.
        flags: of Chromium, beside those that keep it off the network.
    """
    catch = "const errors = []; addEventListener('error', (event) => errors.push(String(event.message)));"
    tell = "const answer = (value) => { document.title = JSON.stringify({...value, errors}); };"
    first, last = f"<script>{catch}{tell}</script>", f"<script>{{{script}}}</script>"
    text = page.read_text("utf-8").replace('<meta charset="utf-8">', f'<meta charset="utf-8">{first}', 1)
    before, closing, after = text.rpartition("</html>")
    probe = scratch / "probe.html"
    probe.write_text(f"{before}{last}{closing}{after}", "utf-8")
    own = (f"--user-data-dir={scratch / 'profile'}", "--window-size=520,900", "--enable-logging=stderr", "--dump-dom")
    command = [str(CHROMIUM), *FLAGS, *own, *flags, f"file://{probe}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stdout[:1000]
    found: dict[str, Any] = json.loads(title.group(1).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    return found


def dom(address: str, scratch: Path, *, milliseconds: int = 30_000) -> str:
    """The HTML of a page of a server on this machine, after so long in the page's own time."""
    own = (f"--user-data-dir={scratch / 'profile'}", "--window-size=1600,3000", f"--virtual-time-budget={milliseconds}")
    command = [str(CHROMIUM), *FLAGS, *own, "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
