"""Nodes come and go under a sweep: its trials go on elsewhere, each is recorded once, and next to nothing is lost."""

import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from segdist.core import storage
from segdist.core.environment import variables
from segdist.searching import Ledger
from segdist.tracking import Tracker
from tests.pipeline.conftest import SWEEP, command, driving, environment, processes, wait_for
from tests.pipeline.namespaces import can_have_namespaces, network_of
from tests.pipeline.nodes import cluster_of, node_environment
from tests.pipeline.test_servers import mlflow_server
from tests.proxy import Proxy

__all__ = ["mlflow_server"]

EPOCHS, FEW_EPOCHS = 24, 12
NODE_GONE = r"trial (\d) +(?:goes on after epoch \d+|begins again): A node of the cluster is gone"


@pytest.mark.timeout(900)
def test_a_node_is_warned_one_dies_and_one_joins_and_each_trial_is_recorded_once(
    tmp_path: Path, short_folder: Path, s3_bucket: str
) -> None:
    place = f"{s3_bucket}/faults"
    file, log = tmp_path / "tiny.yaml", tmp_path / "log"
    file.write_text(SWEEP.format(storage=place).replace("batch_size: 8", "batch_size: 1"))
    overrides = (
        "search.trials=2",
        "search.asha=null",
        "resources.max_failures=0",
        "evaluate.pictures=0",
        f"train.epochs={FEW_EPOCHS}",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    )
    with cluster_of(["a"], tmp_path, short_folder) as nodes:
        env = {**environment(tmp_path), "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"}
        with driving(command("run", file, *overrides), log, env) as driver:
            nodes.ask("add", name="b")  # while the driver starts
            for number in (0, 1):
                wait_for(log, rf"trial {number} +epoch +1/", driver)
            nodes.ask("warn", name="a", seconds=60)
            wait_for(log, r"leaves the cluster", driver)
            nodes.ask("kill", name="b")
            nodes.ask("add", name="c")
            assert driver.wait(500) == 0, log.read_text()

    said = log.read_text()
    moved = re.findall(
        r"trial (\d) +(?:goes on after epoch \d+|begins again): its node leaves the cluster in \d+ seconds: "
        r"it is saved after step \d+ of epoch \d+",
        said,
    )
    died = re.findall(NODE_GONE, said)
    assert (len(moved), len(died)) == (1, 1), said
    trials = Ledger(storage.join(place, _sweep_folder(place))).trials
    assert [t.state for t in trials] == ["finished", "finished"]
    assert sum(t.starts for t in trials) == 4
    _hold_whole(log, Tracker.at(place, f"sqlite:///{tmp_path}/mlflow.db"), trials=2, epochs=FEW_EPOCHS)


@pytest.mark.slow  # a node is away for a minute
@pytest.mark.timeout(1800)
def test_eight_trials_end_whole_with_a_node_that_dies_one_that_is_cut_off_and_one_that_joins(
    tmp_path: Path, short_folder: Path, s3_bucket: str, mlflow_server: str
) -> None:
    place = f"{s3_bucket}/cut-off"
    file, log = tmp_path / "tiny.yaml", tmp_path / "log"
    file.write_text(SWEEP.format(storage=place))
    overrides = ("search.trials=8", "search.asha=null", f"train.epochs={EPOCHS}", f"tracking.uri={mlflow_server}")
    with cluster_of(["a", "b"], tmp_path, short_folder) as nodes:
        env = {**environment(tmp_path), "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"}
        with driving(command("run", file, *overrides), log, env) as driver:
            for number in (0, 1):
                wait_for(log, rf"trial {number} +epoch +2/", driver)
            nodes.ask("freeze", name="b")
            time.sleep(60)
            nodes.ask("thaw", name="b")
            nodes.ask("add", name="c")
            wait_for(log, r"done 2/8", driver)
            nodes.ask("kill", name="a")
            assert driver.wait(1200) == 0, log.read_text()

    _hold_whole(log, Tracker.at(place, mlflow_server), trials=8, epochs=EPOCHS)


@pytest.mark.slow  # a cable is pulled for more than a minute
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not can_have_namespaces(), reason="network namespaces want root, `ip` and util-linux")
def test_a_cable_is_pulled_for_20_seconds_one_until_ray_gives_the_node_up_and_a_machine_dies(
    tmp_path: Path, short_folder: Path, s3_bucket: str, mlflow_server: str
) -> None:
    place = f"{s3_bucket}/cables"
    file, log = tmp_path / "tiny.yaml", tmp_path / "log"
    file.write_text(SWEEP.format(storage=place))
    overrides = ("search.trials=6", "search.asha=null", f"train.epochs={EPOCHS}", "resources.max_failures=0")
    with (
        network_of(["short", "long", "dies", "joins"]) as network,
        Proxy(os.environ["AWS_ENDPOINT_URL"], network.host) as s3,
        Proxy(mlflow_server, network.host) as mlflow,
        variables({"AWS_ENDPOINT_URL": s3.address}),
        cluster_of([], tmp_path, short_folder, network.host) as nodes,
    ):
        env = {**environment(tmp_path), "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"}
        of_node = node_environment(tmp_path, short_folder)
        for name in ("short", "long", "dies"):
            network.start_node(name, nodes.address, short_folder, of_node)
        with driving(command("run", file, f"tracking.uri={mlflow.address}", *overrides), log, env) as driver:
            for number in range(3):
                wait_for(log, rf"trial {number} +epoch +2/", driver)
            for name in ("short", "long"):
                network.cut(name)
            time.sleep(20)  # after 26 TCP waits so long until it tries again that Ray may give the node up
            network.join("short")
            wait_for(log, NODE_GONE, driver)
            ((trial, address),) = re.findall(rf"{NODE_GONE}: the node (\S+)\. ", log.read_text())
            network.start_node("joins", nodes.address, short_folder, of_node)
            wait_for(log, rf"trial {trial} +epoch +{len(_told(trial, log)) + 1}/", driver)
            trains_alone = set(network.pids("long")) & set(processes(tmp_path, "ray::ImplicitFunc.train"))
            network.join("long")
            network.kill("dies")
            assert driver.wait(1200) == 0, log.read_text()
        assert address == network.address("long")
        assert network.has_node("short"), "20 seconds without a network are sat out"
        assert not network.has_node("long"), "Ray ends the node that it gave up once that hears of it"
        assert trains_alone, "the trial that was given up went on by itself, while another process went on with it"
        assert not trains_alone & set(network.pids("long"))

    _hold_whole(log, Tracker.at(place, mlflow_server), trials=6, epochs=EPOCHS)


@pytest.mark.slow  # the trials that share a process start again on another node
@pytest.mark.timeout(900)
def test_trials_of_a_pack_leave_a_node_that_is_warned_in_the_middle_of_an_epoch(
    tmp_path: Path, short_folder: Path
) -> None:
    file, log = tmp_path / "tiny.yaml", tmp_path / "log"
    file.write_text(SWEEP.format(storage=tmp_path / "storage").replace("batch_size: 8", "batch_size: 1"))
    lora = ("train.adapter.kind=lora", "train.adapter.rank=4", "search.pack=2")
    overrides = ("search.trials=2", "search.asha=null", "resources.max_failures=0", f"train.epochs={FEW_EPOCHS}", *lora)
    with cluster_of(["a"], tmp_path, short_folder) as nodes:
        env = {**environment(tmp_path), "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"}
        with driving(command("run", file, *overrides), log, env) as driver:
            for number in (0, 1):
                wait_for(log, rf"trial {number} +epoch +1/", driver)
            nodes.ask("warn", name="a", seconds=60)
            nodes.ask("add", name="b")
            assert driver.wait(600) == 0, log.read_text()

    said = log.read_text()
    moved = re.findall(
        r"trial (\d) +(?:goes on after epoch \d+|begins again): its node leaves the cluster in \d+ seconds: "
        r"it is saved after step \d+ of epoch \d+",
        said,
    )
    assert sorted(moved) == ["0", "1"], said
    for of_trial in (0, 1):
        reported = re.findall(rf"trial {of_trial} +epoch +(\d+)/", said)
        assert list(map(int, reported)) == list(range(1, FEW_EPOCHS + 1)), "no epoch that was told is done again"


@pytest.mark.slow  # two starts of a worker group over two nodes
@pytest.mark.timeout(900)
def test_a_group_that_loses_a_node_goes_on_with_fewer_workers_and_takes_the_same_steps(
    tmp_path: Path, short_folder: Path
) -> None:
    place, log = tmp_path / "storage", tmp_path / "log"
    file = tmp_path / "tiny.yaml"
    file.write_text(SWEEP.format(storage=place))
    resources = ("resources.workers=2", "resources.min_workers=1", "resources.cpus_per_worker=0.9")
    overrides = ("search.trials=1", "search.asha=null", f"train.epochs={EPOCHS}", *resources)
    with cluster_of(["a", "b"], tmp_path, short_folder) as nodes:
        env = {**environment(tmp_path), "RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "disabled"}
        with driving(command("run", file, *overrides), log, env) as driver:
            wait_for(log, r"trial 0 +epoch +2/", driver)
            nodes.ask("kill", name="b")
            assert driver.wait(600) == 0, log.read_text()

    said = log.read_text()
    assert re.search(r"trial 0 +goes on after epoch \d+", said), said
    assert "trial 0   trains with 1 worker of 2" in said
    assert _told(0, log) == list(range(1, EPOCHS + 1))
    tracker = Tracker.at(str(place))
    (trial,) = tracker.trials(tracker.latest_sweep("tiny").run_id)
    rates = [rate for _, rate in tracker.history(trial.run_id, "train/lr")]
    assert rates == sorted(rates, reverse=True), "one schedule from beginning to end"


def _hold_whole(log: Path, tracker: Tracker, *, trials: int, epochs: int) -> None:
    """Each trial is finished and recorded once, and no epoch that was told was done again."""
    every = list(range(1, epochs + 1))
    for number in range(trials):
        assert _told(number, log) == every, log.read_text()
    recorded = tracker.trials(tracker.latest_sweep("tiny").run_id)
    assert Counter((t.number, t.status) for t in recorded) == Counter((n, "FINISHED") for n in range(trials))
    for trial in recorded:
        assert [step for step, _ in tracker.history(trial.run_id, "val/iou")] == every


def _told(number: int | str, log: Path) -> list[int]:
    """Epochs of a trial, as the driver tells them."""
    return [int(epoch) for epoch in re.findall(rf"trial {number} +epoch +(\d+)/", log.read_text())]


def _sweep_folder(place: str) -> str:
    (one,) = {e.uri.removeprefix(f"{place}/").split("/trials/")[0] for e in storage.find(place, suffix="/0000.json")}
    return one
