"""A sweep small enough for a test: drawn roofs, a debug-sized network, minutes of patience; and secrets to look for."""

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

SWEEP = """\
name: tiny
question: Where are the roofs?
storage: {storage}
data:
  sources:
    - {{format: synthetic, scene: roofs, count: 24, size: 64, seed: 1}}
model:
  family: unet_cbam
  unet_cbam: {{image_size: 64, width: 8}}
train: {{epochs: 6, batch_size: 8, lr: 1e-3}}
evaluate: {{pictures: 2}}
space:
  train.lr: {{low: 1e-4, high: 1e-2, log: true}}
search: {{trials: 3, startup_trials: 2}}
"""

SECRETS = {
    name: f"planted-{name.lower()}-0123456789"
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN",
        "SEGDIST_TOKEN", "WANDB_API_KEY", "GOOGLE_API_KEY", "AZURE_STORAGE_ACCESS_KEY",
    )
}  # fmt: skip
SECRETS["HTTPS_PROXY"] = "http://me:planted-proxy-0123456789@127.0.0.1:9"
"""An environment whose values must be found nowhere else."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep file whose storage is its own folder."""
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(storage=tmp_path / "storage"))
    return file


@pytest.fixture
def segdist(tmp_path: Path) -> Command:
    """The command line in a process of its own, as users run it."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=500,
            env={**environment(tmp_path), **(env or {})},
            check=False,
        )

    return run


def command(*arguments: str | Path) -> list[str]:
    """The words of a segdist command line in this environment."""
    return [sys.executable, "-m", "segdist.cli", *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    """This environment, with nothing of the user's: no storage, cache or cluster outside the test's folder."""
    outside = {
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "SEGDIST_STORAGE",
        "SEGDIST_SESSION",
        "RAY_TMPDIR",  # of the tests' own cluster
        "MLFLOW_TRACKING_URI",
    }
    kept = {k: v for k, v in os.environ.items() if k not in outside}
    return {**kept, "SEGDIST_CACHE": str(folder / "cache")}


@contextmanager
def driving(words: Sequence[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A driver in a session of its own that writes to a file; killed with all it started if the block ends before."""
    with log.open("w") as out:
        driver = subprocess.Popen(words, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        yield driver
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


def signal_family(pid: int, number: int) -> None:
    """Send a signal to a process and to all that it started."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        for one in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a name so short that Ray can put its sockets there: `RAY_TMPDIR`."""
    folder = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def leaks(*folders: Path, secrets: dict[str, str] = SECRETS) -> list[str]:
    """Which secrets are written in which files below the folders, as they are or in base64."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert files, f"nothing was written to {folders}"
    marks = {
        mark: name
        for name, value in secrets.items()
        for mark in (_marked(value).encode(), base64.b64encode(_marked(value).encode()).rstrip(b"="))
    }
    return [f"{marks[m]} in {file}" for file in files for content in [file.read_bytes()] for m in marks if m in content]


def _marked(value: str) -> str:
    return value.partition("@")[0].rpartition(":")[2]  # of a proxy, its password


def processes(folder: Path, title: str) -> list[int]:
    """Ids of the processes that Ray calls by a title and whose environment names this test's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"SEGDIST_CACHE={folder}" in (process / "environ").read_text(errors="replace")
            if is_ours and (process / "cmdline").read_bytes().startswith(title.encode()):
                found.append(int(process.name))
        except OSError:  # it ended, or is not ours to look at
            continue
    return sorted(found)


def draw_roofs(file: Path) -> None:
    """Write a picture of roofs, 96 pixels wide."""
    import cv2

    from segdist.formats.synthetic.scenes import draw

    image, _ = draw("roofs", 5, 96)
    assert cv2.imwrite(str(file), image[..., ::-1])


def wait_for(log: Path, pattern: str, driver: subprocess.Popen[bytes]) -> None:
    """Until a driver has written what is looked for; one that ends before has failed."""
    deadline = time.monotonic() + 200
    while not re.search(pattern, log.read_text()):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
