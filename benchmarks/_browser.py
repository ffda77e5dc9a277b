"""A page in headless Chromium, asked over its debugging pipe."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_LOOK_EVERY = 0.1


class Page:
    """An open page.

    Args:
        to_browser: takes commands.
        from_browser: gives answers.
    """

    def __init__(self, to_browser: IO[bytes], from_browser: IO[bytes]) -> None:
        self._out, self._lines = to_browser, from_browser
        self._session: dict[str, str] = {}
        while not (pages := [t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]):
            time.sleep(_LOOK_EVERY)
        attached = self._ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def value(self, expression: str) -> Any:
        """Of an expression in the page."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float) -> Any:
        """The first value of an expression that counts as true.

        Raises:
            TimeoutError: it had none.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.value(expression):
                return found
            time.sleep(_LOOK_EVERY)
        raise TimeoutError(f"in {seconds:.0f} s the page never had: {expression}")

    def picture(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End the browser."""
        self._session = {}
        self._ask("Browser.close")

    def _ask(self, method: str, **params: object) -> Any:
        self._out.write(json.dumps({"id": 1, "method": method, "params": params, **self._session}).encode() + b"\0")
        while True:
            text = b"".join(iter(lambda: self._lines.read(1), b"\0"))
            if (found := json.loads(text)).get("id") == 1:
                return found["result"]


@contextmanager
def opened(address: str, profile: Path, *, window_wh: tuple[int, int]) -> Iterator[Page]:
    """A page, until the block ends.

    Args:
        address: of the page.
        profile: a folder for the browser.
        window_wh: pixels.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("There is no chromium on this machine: apt-get install chromium")
    (to_browser, asks), (answers, from_browser) = os.pipe(), os.pipe()
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size={},{}".format(*window_wh)]
    # Chromium reads commands from descriptor 3 and answers on 4, each ended by a zero byte.
    shell = ["sh", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "sh", *command, address]
    quiet = subprocess.DEVNULL
    with (
        subprocess.Popen(shell, pass_fds=(to_browser, from_browser), stdout=quiet, stderr=quiet) as browser,
        os.fdopen(asks, "wb", 0) as out,
        os.fdopen(answers, "rb") as lines,
    ):
        page = Page(out, lines)
        try:
            yield page
            page.close()  # and nothing is left that still writes into the profile
            browser.wait(30)
        finally:
            browser.terminate()
