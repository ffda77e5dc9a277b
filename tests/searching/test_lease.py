"""Two drivers never run one sweep at once; one that died holds nobody up."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from segdist.core import storage
from segdist.core.drivers import this_driver
from segdist.core.errors import BackendError
from segdist.searching import lease as leases
from segdist.searching.lease import leased


def _hold(folder: str, ready: "multiprocessing.synchronize.Event") -> None:
    with leased(folder, "roofs"):
        ready.set()
        time.sleep(60)


def test_a_second_driver_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    first = context.Process(target=_hold, args=(str(tmp_path), ready))
    first.start()
    assert ready.wait(60)
    with (
        pytest.raises(BackendError, match=f"`roofs` is being run by process {first.pid} on"),
        leased(str(tmp_path), "roofs"),
    ):
        pass
    assert first.pid
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with leased(str(tmp_path), "roofs") as lease:
        lease.check()
    assert not (tmp_path / "driver.json").exists()


def test_a_driver_of_another_machine_counts_as_gone_when_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "WATCH", 0.2)
    mark = json.dumps({**json.loads(this_driver()), "host": "elsewhere"})
    file = tmp_path / "driver.json"
    file.write_text(json.dumps({"driver": mark, "beat": time.time() - 10}))
    with pytest.raises(BackendError, match="on elsewhere"), leased(str(tmp_path), "roofs"):
        pass
    file.write_text(json.dumps({"driver": mark, "beat": time.time() - leases.EXPIRES - 1}))
    with leased(str(tmp_path), "roofs"):
        pass


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_a_driver_whose_clock_is_wrong_is_known_by_its_beats(
    root: str, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = json.dumps({**json.loads(this_driver()), "host": "elsewhere"})

    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(0.05):
            storage.write_json(f"{root}/driver.json", {"driver": mark, "beat": time.time() + skew})

    storage.write_json(f"{root}/driver.json", {"driver": mark, "beat": time.time() + skew})
    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(BackendError, match="clocks of the two machines, which differ by 3"), leased(root, "x"):
            pass
    finally:
        is_over.set()
        other.join()
    monkeypatch.setattr(leases, "WATCH", 0.2)
    with leased(root, "x") as lease:  # it beats no more
        lease.check()


def test_a_second_driver_on_an_object_store_is_refused(s3_bucket: str) -> None:
    root = f"{s3_bucket}/lease"
    other = json.dumps({**json.loads(this_driver()), "host": "elsewhere"})
    storage.write_json(f"{root}/driver.json", {"driver": other, "beat": time.time()})
    with pytest.raises(BackendError, match="is being run by process"), leased(root, "x"):
        pass
    storage.remove(f"{root}/driver.json")
    with leased(root, "x"):
        assert storage.exists(f"{root}/driver.json")
    assert not storage.exists(f"{root}/driver.json")


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_bucket") + "/" + tmp_path.name


@pytest.mark.parametrize("content", ["", "{", "[]", '{"driver": 3}', '{"driver": "x", "beat": "soon"}'])
def test_a_damaged_file_of_a_driver_that_died_holds_nobody_up(tmp_path: Path, content: str) -> None:
    (tmp_path / "driver.json").write_text(content)
    with leased(str(tmp_path), "roofs"):
        pass


def test_a_driver_that_was_away_for_too_long_learns_that_another_one_has_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.01)
    mark = json.dumps({**json.loads(this_driver()), "host": "elsewhere"})
    with leased(str(tmp_path), "roofs") as lease:
        lease.check()
        taken = {"driver": mark, "beat": time.time()}
        deadline = time.monotonic() + 30
        while not lease.is_lost and time.monotonic() < deadline:
            (tmp_path / "driver.json").write_text(json.dumps(taken))
            time.sleep(0.05)
        with pytest.raises(BackendError, match="Another driver runs `roofs` now"):
            lease.check()
    assert json.loads((tmp_path / "driver.json").read_text()) == taken, "it is the other one's"
