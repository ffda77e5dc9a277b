"""The page in a browser: an image is chosen, a box is drawn, and what the model finds is shown."""

import base64
import itertools
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
from websockets.sync.client import ClientConnection, connect

from segdist.core.panels import encode_png
from segdist.serving.limits import Limits
from tests.browser import CHROMIUM, FLAGS, needs_chromium
from tests.serving.test_app import PICTURE, TOKEN
from tests.serving.test_server import served

pytestmark = [pytest.mark.slow, needs_chromium]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def url() -> Iterator[str]:
    """The application with a model anybody can compute, on the server that users have."""
    with served(Limits(), prompts=frozenset({"none", "box", "point"})) as (host, port):
        yield f"http://{host}:{port}"


class Browser:
    """Chromium by its DevTools protocol."""

    def __init__(self, opened: ClientConnection) -> None:
        self._socket = opened
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["source"] == "security":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("id") == number:
                return dict(message["result"])

    def js(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        deadline = time.monotonic() + 60
        while not self.js(expression):
            assert time.monotonic() < deadline, (expression, self.js("document.body.innerText"), self.errors)
            time.sleep(0.2)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    port = free_port()
    own = (f"--user-data-dir={tmp_path / 'profile'}", f"--remote-debugging-port={port}", "--window-size=1180,820")
    words = [str(CHROMIUM), *FLAGS, *own, "about:blank"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_socket_url(port), max_size=None) as opened:
            yield Browser(opened)
    finally:
        process.kill()
        process.wait(20)


def _socket_url(port: int) -> str:
    deadline = time.monotonic() + 60
    while True:
        try:
            pages = [t for t in httpx.get(f"http://127.0.0.1:{port}/json").json() if t["type"] == "page"]
            return str(pages[0]["webSocketDebuggerUrl"])
        except (httpx.HTTPError, IndexError):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_chosen_image_is_segmented_by_a_drawn_box_and_the_token_leaves_the_address(
    url: str, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(encode_png(PICTURE))
    browser.call("Page.navigate", url=f"{url}/#token={TOKEN.replace(' ', '+')}")
    browser.wait("document.getElementById('name').textContent === 'roofs@champion'")
    assert TOKEN.partition(" ")[0] not in browser.js("location.hash")

    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(tmp_path / "photo.png")], nodeId=node)
    browser.wait("document.getElementById('drop').classList.contains('full')")
    frame = "document.getElementById('canvas').getBoundingClientRect()"
    left, top, width, height = browser.js(f"(r => [r.left, r.top, r.width, r.height])({frame})")
    for kind, x, y in (("mousePressed", 0.25, 0.25), ("mouseMoved", 0.75, 0.5), ("mouseReleased", 0.75, 0.5)):
        place = {"x": left + x * width, "y": top + y * height}
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **place)
    browser.wait("document.querySelectorAll('#found li').length === 1")

    label, size = browser.js("[...document.querySelectorAll('#found li span')].map(s => s.textContent)")
    assert label == "roof"
    area = int(size.split("·")[1].removesuffix("px").strip())
    assert area == pytest.approx(24 * 10, abs=40), "the box in pixels of the image, however large it is shown"
    assert base64.b64decode(browser.call("Page.captureScreenshot")["data"])[:4] == b"\x89PNG"
    assert browser.errors == []


def test_without_a_token_the_page_asks_for_it(url: str, browser: Browser) -> None:
    browser.call("Page.navigate", url=url)
    browser.wait("!document.getElementById('access').hidden")
    browser.js(
        f"(f => {{ f.value = '{TOKEN}'; f.dispatchEvent(new Event('change')); }})(document.getElementById('token'))"
    )
    browser.wait("document.getElementById('name').textContent === 'roofs@champion'")
    assert browser.errors == []


def test_the_documentation_shows_every_path_and_asks_nobody_else(url: str, browser: Browser) -> None:
    browser.call("Page.navigate", url=f"{url}/docs")
    browser.wait("document.querySelectorAll('section').length === 4")
    text = browser.js("document.body.innerText")
    for said in (
        "segdist: roofs@champion",
        "POST /v1/segment",
        "GET /health",
        "coco | polygons | png",
        "SEGDIST_TOKEN",
    ):
        assert said in text
    asked = browser.js("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked == [f"{url}/openapi.json"]
    assert browser.errors == []


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_script_that_got_into_a_page_does_not_run_and_tells_nobody(url: str, browser: Browser, path: str) -> None:
    browser.call("Page.navigate", url=url + path)
    browser.wait("document.readyState === 'complete'")
    browser.js("""(() => {
        const script = document.createElement("script"); script.textContent = "window.ran = 1";
        document.body.append(script);
        const button = document.createElement("button"); button.setAttribute("onclick", "window.ran = 1");
        document.body.append(button); button.click();
        const image = document.createElement("img"); image.src = "http://127.0.0.1:9/" + sessionStorage.length;
        document.body.append(image);
        fetch("http://127.0.0.1:9/").catch(() => { window.refused = 1; });
    })()""")
    browser.wait("window.refused === 1")
    assert browser.js("window.ran") is None
    assert len(browser.errors) >= 4
    assert all("Content Security Policy" in error for error in browser.errors)
