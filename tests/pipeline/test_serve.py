"""`segdist serve` on Ray Serve: nothing lost under load, everything malformed refused; where it may listen."""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from segdist.data.scenes import draw
from segdist.engine import checkpoint
from segdist.errors import SpecError
from segdist.panels import encode_png
from segdist.records import Prompt
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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("served") / "roofs", "unet_cbam")


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a served model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("serve")
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command("serve", model, "--port", str(port)),
            stdout=file,
            stderr=file,
            env={**environment(folder), "SEGDIST_TOKEN": TOKEN},
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 500
    try:
        while not re.search("serving", log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        assert process.wait(120) == 0, log.read_text()


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
