"""Takes the pictures of the README: `python -m benchmarks._pictures STORAGE [SWEEP]`, of a sweep that was run there.

Of the page of all trials, and of MLflow's page by the link that `segdist compare` prints; in headless Chromium.
`python -m benchmarks._pictures http://127.0.0.1:9090 SWEEP [HOURS]` takes that of the dashboards, where `segdist
dashboards up` has watched a sweep.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image

from benchmarks._browser import opened
from segdist.commands.compare import board_of, pages_of, tracker_of
from segdist.commands.dashboards import render_dashboards
from segdist.commands.side_by_side import write_pages

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 1240
"""Pixels of a picture."""


@dataclass(frozen=True)
class Camera:
    """How a page is taken.

    Attributes:
        window_wh: pixels of the window.
        is_drawn: what is true in the page once everything that is in sight is there.
        cut: pixels at the right that are left out: MLflow opens a panel there that has nothing to do with a sweep.
    """

    window_wh: tuple[int, int]
    is_drawn: str
    cut: int = 0


_IN_SIGHT = """(() => {
  const all = [...document.images].filter((image) => image.src.includes("get-artifact"));
  return all.length >= 4 && all.every((image) => image.complete && image.naturalWidth);
})()"""
PAGE, MLFLOW = Camera((1440, 900), "document.body?.dataset.drawn"), Camera((2020, 1640), _IN_SIGHT, cut=514)
_PATIENCE, _SETTLES = 600, 5
"""Seconds: for a page, and after that for what moves on it."""
DASHBOARDS = Camera((1440, 1262), 'document.readyState === "complete"')


def main(place: str, sweep: str = "quickstart", hours: str = "0.2") -> None:
    """Write `docs/dashboards.webp` of a Prometheus, or `docs/side_by_side.webp` and `docs/mlflow.webp` of a storage."""
    if place.startswith("http"):
        with TemporaryDirectory(prefix="segdist-pictures-") as folder:
            page = Path(folder) / "dashboards.html"
            render_dashboards(page, prometheus=place, sweep=sweep, hours=float(hours), only=["sweep"])
            _take(f"file://{page}", "dashboards", DASHBOARDS, Path(folder))
    else:
        _of_storage(place, sweep)


def _of_storage(storage: str, sweep: str) -> None:
    board = board_of(sweep, storage=storage)
    with TemporaryDirectory(prefix="segdist-pictures-") as folder:
        written = write_pages(tracker_of(board, storage=storage), board, Path(folder) / "pages")
        _take(f"file://{written['images']}#layers=photo,truth,prediction,error", "side_by_side", PAGE, Path(folder))
        charts = pages_of(board, storage=storage).links["charts"]
        with _mlflow(f"sqlite:///{Path(storage).absolute()}/mlflow.db") as address:
            _take(address + charts[charts.index("/#/") :], "mlflow", MLFLOW, Path(folder))


@contextmanager
def _mlflow(store: str) -> Iterator[str]:
    """A server on this machine alone; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1"]
    known = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen([*command, "--port", str(port), "--workers", "1"], env=known, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(URLError, ConnectionError), urlopen(f"{address}/health", timeout=5):
                break
            time.sleep(1)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _take(address: str, name: str, camera: Camera, scratch: Path) -> None:
    with opened(address, scratch / "profile", window_wh=camera.window_wh) as page:
        page.wait_for(camera.is_drawn, seconds=_PATIENCE)
        time.sleep(_SETTLES)
        picture = Image.open(BytesIO(page.picture())).convert("RGB")
    picture = picture.crop((0, 0, picture.width - camera.cut, picture.height))
    picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
    file = DOCS / f"{name}.webp"
    picture.save(file, quality=82, method=6)
    print(f"{file}  {file.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(*sys.argv[1:])
