"""`segdist serve` on Ray Serve: nothing lost under load, everything malformed refused; where it may listen."""

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from segdist.core.errors import SpecError
from segdist.core.panels import encode_png
from segdist.core.records import Prompt
from segdist.engine import checkpoint
from segdist.formats.synthetic.scenes import draw
from tests.engine.shipped import model_folder
from tests.pipeline.conftest import command, environment

pytest.importorskip("ray.serve")
import httpx

from segdist.pipeline.serve import address
from tests.serving.test_app import HEADERS, TOKEN, malformed

CLIENTS, REQUESTS = 8, 200


def test_it_listens_on_this_machine_and_beyond_it_only_with_a_token(tmp_path: Path) -> None:
    drawn = address("127.0.0.1", 8000, token="", token_file=None)
    assert len(drawn.token) >= 32
    assert drawn.url.startswith("http://127.0.0.1:8000/#token=")
    with pytest.raises(SpecError, match="SEGDIST_TOKEN"):
        address("0.0.0.0", 8000, token="", token_file=None)
    with pytest.raises(SpecError, match="16 characters"):
        address("0.0.0.0", 8000, token="short", token_file=None)
    with pytest.raises(SpecError, match="there is no"):
        address("127.0.0.1", 8000, token="", token_file=tmp_path / "token")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert address("0.0.0.0", 8000, token="", token_file=tmp_path / "token").token == TOKEN


def test_a_token_of_the_users_own_is_shown_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for given in ({"token": TOKEN, "token_file": None}, {"token": "", "token_file": file}):
        where = address("127.0.0.1", 8000, **given)
        assert where.token == TOKEN
        assert where.url == "http://127.0.0.1:8000/"
        assert TOKEN not in repr(where)
    assert TOKEN not in capsys.readouterr().out


def test_a_file_of_a_token_that_others_can_read_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for mode, is_reported in ((0o600, False), (0o400, False), (0o640, True), (0o644, True)):
        file.chmod(mode)
        address("127.0.0.1", 8000, token="", token_file=file)
        assert (f"others can read {file}" in capsys.readouterr().out) is is_reported


@pytest.mark.parametrize(
    "content", [b"\xff\xfe" * 20, b"x" * 10_000, b"two lines\nof sixteen characters", b"", b"\0" * 20]
)
def test_a_file_that_holds_no_token_is_an_error_that_does_not_repeat_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(SpecError, match="A token must") as caught:
        address("127.0.0.1", 8000, token="", token_file=file)
    assert len(str(caught.value)) < 500


def test_the_token_is_no_word_of_the_command_line() -> None:
    """Every user of a machine sees the others' command lines."""
    done = subprocess.run(
        command("serve", "M", "--token", TOKEN), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert "--token-file" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("served") / "roofs", "unet_cbam")


@dataclass(frozen=True)
class Served:
    """A model behind HTTP, in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def served(model: Path, folder: Path) -> Iterator[Served]:
    """Serve a model until it is told to stop; then it exits with 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command("serve", model, "--port", str(port)),
            stdout=file,
            stderr=file,
            env={**environment(folder), "SEGDIST_TOKEN": TOKEN},
        )
    deadline = time.monotonic() + 500
    try:
        while not re.search("serving", log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield Served(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.terminate()
        assert process.wait(120) == 0, log.read_text()


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a served model."""
    with served(model, tmp_path_factory.mktemp("serve")) as one:
        yield one.url


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_requests_of_eight_clients_are_all_answered_right_and_malformed_ones_all_refused(
    model: Path, server: str
) -> None:
    images = [draw("roofs", k, 48 + k)[0] for k in range(20)]
    network: Any = checkpoint.load(model)
    with torch.inference_mode():
        expected = [
            [(i.label, i.mask.counts.decode()) for i in network.predict([image], [Prompt()])[0]] for image in images
        ]

    def ask(k: int) -> bool:
        which = k % len(images)
        files = {"image": ("a.png", encode_png(images[which]), "image/png")}
        reply = httpx.post(f"{server}/v1/segment", files=files, headers=HEADERS, timeout=120)
        assert reply.status_code == 200, reply.text
        found = [(i["label"], i["segmentation"]["counts"]) for i in reply.json()["instances"]]
        return found == expected[which]

    with ThreadPoolExecutor(CLIENTS) as clients:
        right = list(clients.map(ask, range(REQUESTS)))
    assert right == [True] * REQUESTS

    statuses = [httpx.post(server + path, timeout=120, **request).status_code for path, request in malformed()]
    assert len(statuses) == 50
    assert all(400 <= status < 500 for status in statuses), statuses
    assert httpx.get(f"{server}/health", timeout=60).json()["status"] == "ok"
    assert ask(0)
    said = httpx.get(f"{server}/metrics", headers=HEADERS, timeout=60).text
    assert f'segdist_requests_total{{outcome="ok"}} {REQUESTS + 1}.0' in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_it_first_answers_the_request_under_way_and_no_process_ever_knew_the_token(
    model: Path, tmp_path: Path
) -> None:
    large = np.zeros((4_000, 4_000, 3), np.uint8)
    with served(model, tmp_path) as one, ThreadPoolExecutor(1) as client:
        children = psutil.Process(one.process.pid).children(recursive=True)
        assert len(children) > 5
        assert [c for c in children if TOKEN in " ".join([*c.cmdline(), *c.environ().values()])] == []
        files = {"image": ("a.png", encode_png(large), "image/png")}
        asked = client.submit(httpx.post, f"{one.url}/v1/segment", files=files, headers=HEADERS, timeout=120)
        metrics = f"{one.url}/metrics"
        assert "segdist_requests" in httpx.get(metrics, headers=HEADERS, timeout=60).text
        one.process.send_signal(signal.SIGTERM)
        assert asked.result().json()["size_hw"] == [4_000, 4_000]
        assert one.process.wait(120) == 0
    assert "stopping" in one.log.read_text()
    assert one.log.read_text().rstrip().endswith("stopped")
    assert TOKEN not in one.log.read_text()
