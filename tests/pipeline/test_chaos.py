"""A sweep with labelling under random kills and outages, for as many minutes as SEGDIST_CHAOS_MINUTES says."""

import itertools
import logging
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from segdist.core import storage
from segdist.core.environment import variables
from segdist.searching import Ledger
from segdist.tracking import Tracker
from tests.pipeline.conftest import SWEEP, command, environment, processes
from tests.pipeline.nodes import Nodes, cluster_of
from tests.pipeline.test_servers import mlflow_server
from tests.proxy import Proxy

__all__ = ["mlflow_server"]

MINUTES = float(os.environ.get("SEGDIST_CHAOS_MINUTES", "30"))
EPOCHS = 6
_LOG = logging.getLogger(__name__)


class Chaos:
    """A sweep that is driven until it is done, and what happens to it.

    Args:
        folder: of the test.
        file: the sweep.
        nodes: of the cluster.
        s3: in front of the storage.
        mlflow: in front of the tracking server.
    """

    def __init__(self, folder: Path, file: Path, nodes: Nodes, s3: Proxy, mlflow: Proxy) -> None:
        self._folder, self._file, self._nodes, self._s3, self._mlflow = folder, file, nodes, s3, mlflow
        self._names, self._alive = (f"n{k}" for k in itertools.count()), ["a", "b"]
        self._log, self.trials, self.done = folder / "log", 4, Counter[str]()
        self._driver = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        env = {**environment(self._folder), "RAY_ADDRESS": self._nodes.address, "RAY_AUTH_MODE": "disabled"}
        with self._log.open("a") as out:
            words = command("run", self._file, f"search.trials={self.trials}")
            return subprocess.Popen(words, stdout=out, stderr=out, env=env, start_new_session=True)

    def strike(self, chance: random.Random) -> None:
        """Have one thing happen; afterwards somebody drives the sweep, which is widened where it was done."""
        acts: dict[str, Callable[[], object]] = {
            "worker": self._kill_worker,
            "driver": self._kill_driver,
            "node": self._swap_node,
            "mlflow": lambda: self._away(self._mlflow, chance.uniform(1, 15)),
            "503": lambda: self._busy(chance.uniform(1, 10)),
            "slow": lambda: self._slow(20.0),
        }
        name = chance.choice(list(acts))
        acts[name]()
        self.done[name] += 1
        if self._driver.poll() == 0:
            self.trials += 2
        if self._driver.poll() is not None:
            self._driver = self._start()

    def finish(self) -> None:
        """Drive it to its end, undisturbed."""
        for _ in range(3):
            if self._driver.wait(1200) == 0:
                return
            self._driver = self._start()
        raise AssertionError(self._log.read_text())

    def close(self) -> None:
        """End the driver."""
        if self._driver.poll() is None:
            self._kill_driver()

    def _kill_worker(self) -> None:
        found = processes(self._folder, "ray::ImplicitFunc.train") or processes(self._folder, "ray::")
        if found:
            os.kill(found[0], signal.SIGKILL)

    def _kill_driver(self) -> None:
        os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()

    def _swap_node(self) -> None:
        self._nodes.ask("kill", name=self._alive.pop(0))
        self._alive.append(next(self._names))
        self._nodes.ask("add", name=self._alive[-1])

    @staticmethod
    def _away(proxy: Proxy, seconds: float) -> None:
        proxy.refuse()
        time.sleep(seconds)
        proxy.accept()

    def _busy(self, seconds: float) -> None:
        self._s3.is_busy = True
        time.sleep(seconds)
        self._s3.is_busy = False

    def _slow(self, seconds: float) -> None:
        self._s3.delay = seconds
        time.sleep(seconds)
        self._s3.delay = 0.0


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + 4000)
def test_under_random_kills_and_outages_nothing_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, short_folder: Path, s3_bucket: str, mlflow_server: str
) -> None:
    place = f"{s3_bucket}/chaos"
    seed = int(os.environ.get("SEGDIST_CHAOS_SEED", "0"))
    with Proxy(os.environ["AWS_ENDPOINT_URL"]) as s3, Proxy(mlflow_server) as mlflow:
        file = tmp_path / "tiny.yaml"
        file.write_text(
            SWEEP.format(storage=place).replace("epochs: 6", f"epochs: {EPOCHS}")
            + f"tracking: {{uri: '{mlflow.address}'}}\n"
            + "label: {teacher: {family: sam, sam: {size: tiny}}, images_per_shard: 4}\n"
            + "resources: {max_failures: 1000}\n"
        )
        file.write_text(file.read_text().replace("data:\n", "data:\n  boxes_only: [train]\n"))
        with variables({"AWS_ENDPOINT_URL": s3.address}), cluster_of(["a", "b"], tmp_path, short_folder) as nodes:
            chaos, chance = Chaos(tmp_path, file, nodes, s3, mlflow), random.Random(seed)
            try:
                until = time.monotonic() + 60 * MINUTES
                while time.monotonic() < until:
                    time.sleep(chance.uniform(5, 30))
                    chaos.strike(chance)
                chaos.finish()
            finally:
                chaos.close()

    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    _LOG.info("%s; %s trials; %s", dict(chaos.done), chaos.trials, re.findall(r"spent .*", said)[-1:])
    (folder,) = {e.uri.split("/trials/")[0] for e in storage.find(place, suffix="/0000.json")}
    trials = Ledger(folder).trials
    assert [trial.number for trial in trials] == list(range(chaos.trials))
    assert {trial.state for trial in trials} <= {"finished", "stopped"}, said
    tracker = Tracker.at(place, mlflow_server)
    recorded = tracker.trials(tracker.latest_sweep("tiny").run_id)
    assert Counter(one.number for one in recorded) == Counter(range(chaos.trials)), "each once"
    for one in recorded:
        epochs = [epoch.epoch for epoch in trials[one.number].epochs]
        assert [step for step, _ in tracker.history(one.run_id, "val/iou")] == epochs
        assert epochs == list(range(1, len(epochs) + 1))
