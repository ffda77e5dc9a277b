"""`segdist serve`: memory with many clients of the worst image it allows, and good requests among hostile ones."""

import io
import os
import secrets
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from PIL import Image

from benchmarks._process import peak
from segdist.core.panels import encode_png
from segdist.core.spec import ModelSpec, RunSpec
from segdist.engine import checkpoint
from segdist.formats.synthetic.scenes import draw

SIDE, CLIENTS, LIMIT_MB = 7_071, 64, 4_000
REQUESTS, AT_ONCE, SLOW = 500, 8, 280


@dataclass(frozen=True)
class Served:
    """A server of its own process."""

    pid: int
    port: int
    token: str

    def ask(self, image: bytes, **changes: Any) -> int:
        """The status of a request to segment an image; 0 where there is no answer."""
        headers = {"Authorization": f"Bearer {self.token}", **changes.pop("headers", {})}
        asked: dict[str, Any] = {"files": {"image": ("a", image, "image/png")}, **changes}
        try:
            return httpx.post(
                f"http://127.0.0.1:{self.port}/v1/segment", headers=headers, timeout=600, **asked
            ).status_code
        except httpx.TransportError:
            return 0


def main() -> None:
    """Print peaks of memory of all processes together, and how requests ended."""
    with TemporaryDirectory() as scratch, _served(Path(scratch)) as server:
        good = encode_png(draw("roofs", 1, 96)[0])
        assert server.ask(good) == 200
        _memory(server, good)
        _mixed(server, good)
        _slow(server, good)


def _memory(server: Served, good: bytes) -> None:
    encoded = io.BytesIO()
    Image.new("RGBA", (SIDE, SIDE)).save(
        encoded, "WEBP"
    )  # its decoder holds a copy of its own beside Pillow's and ours
    worst = encoded.getvalue()
    print(f"worst allowed image: WebP of {SIDE:,} x {SIDE:,} with alpha, {len(worst):,} bytes")
    for clients, what, image in ((1, "a small image", good), (1, "the worst", worst), (CLIENTS, "the worst", worst)):
        with peak(server.pid) as megabytes, ThreadPoolExecutor(clients) as pool:
            start = time.perf_counter()
            statuses = Counter(pool.map(server.ask, [image] * clients))
        seconds = time.perf_counter() - start
        print(f"{clients:3} clients of {what:14} {megabytes[0]:6,.0f} MB  {_told(statuses)}  {seconds:4.0f} s")
    print(f"limit {LIMIT_MB:,} MB")


def _mixed(server: Served, good: bytes) -> None:
    hostile = list(_hostile(server, good))
    with ThreadPoolExecutor(AT_ONCE) as some, ThreadPoolExecutor(AT_ONCE) as others:
        bad = [others.submit(hostile[k % len(hostile)]) for k in range(REQUESTS)]
        fine = [some.submit(server.ask, good) for _ in range(REQUESTS)]
    for name, futures in (("good", fine), ("hostile", bad)):
        print(f"{REQUESTS} {name:8} {_told(Counter(future.result() for future in futures))}")


def _hostile(server: Served, good: bytes) -> Iterator[Callable[[], int]]:
    """One of each kind."""
    images = [
        b"", b"no picture", good[:60], good[: len(good) // 2], b"\x89PNG\r\n\x1a\n" + os.urandom(1_000),
        b"II*\0\x08\0\0\0", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"BM" + b"\xff" * 60,
        _claims(20_000, 20_000), _claims(2**31 - 1, 9), _claims(1, 40_000_000),
    ]  # fmt: skip
    for image in images:
        yield partial(server.ask, image)
    prompts = [
        "[" * 200_000,
        '{"boxes_xyxy": [' + "[]," * 100_000 + "[]]}",
        '{"boxes_xyxy": [[NaN, 0, 1e308, 1]]}',
        "\0",
    ]
    changes: list[dict[str, Any]] = [{"data": {"prompt": prompt}} for prompt in prompts]
    changes += [{"data": {"output": "x" * 500_000}}, {"data": {"min_score": "nan"}}]
    changes += [
        {"headers": {name: value}}
        for name, value in (
            ("Authorization", "Bearer wrong"), ("Host", "evil.example"), ("Origin", "http://evil.example"),
            ("Content-Type", "multipart/form-data; boundary=x; charset=idna"), ("Content-Encoding", "gzip"),
            ("Content-Type", "application/json"), ("X", "x" * 100_000),
        )
    ]  # fmt: skip
    changes.append({"files": [("image", (f"{k}", b"x")) for k in range(2_000)]})
    for change in changes:
        yield partial(server.ask, good, **change)


def _claims(width: int, height: int) -> bytes:
    """A PNG whose header claims so many pixels."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + header + b"\x08\x02\0\0\0" + bytes(4)


def _slow(server: Served, good: bytes) -> None:
    head = f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n".encode()
    head += b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9999\r\n\r\n--x\r\n"
    with ExitStack() as stack:
        for _ in range(SLOW):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(head)
        start = time.perf_counter()
        status = httpx.get(f"http://127.0.0.1:{server.port}/health", timeout=60).json()["status"]
        middle = time.perf_counter()
        asked = server.ask(good)
        end = time.perf_counter()
    took = f"/health says {status} in {middle - start:.2f} s, an image {asked} in {end - middle:.2f} s"
    print(f"beside {SLOW} slow bodies: {took}")


def _told(statuses: Counter[int]) -> str:
    return ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(statuses.items()))


@contextmanager
def _served(folder: Path) -> Iterator[Served]:
    model = ModelSpec.model_validate({"family": "unet_cbam", "unet_cbam": {"image_size": 64, "width": 8, "depth": 3}})
    classes = ("roof", "tree")
    checkpoint.save(checkpoint.build(model, classes), folder / "model", RunSpec(model=model), classes)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_urlsafe(24)
    words = [sys.executable, "-m", "segdist.cli", "serve", str(folder / "model"), "--port", str(port)]
    environment = {**os.environ, "SEGDIST_TOKEN": token}
    with (folder / "log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log, env=environment) as process:
        try:
            _wait(process, folder / "log")
            yield Served(process.pid, port, token)
        finally:
            process.terminate()
            print(f"stopped with {process.wait(120)}")


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    while "serving" not in log.read_text():
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(0.2)
