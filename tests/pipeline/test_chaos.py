"""Sweeps with labelling under random kills and outages, for as many minutes as SEGDIST_CHAOS_MINUTES says."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from segdist.core import storage
from segdist.core.environment import variables
from segdist.searching import Ledger
from segdist.searching.cost import Cost
from segdist.tracking import Tracker
from tests.pipeline.conftest import SWEEP, Command, command, environment, processes
from tests.pipeline.nodes import Nodes, cluster_of
from tests.pipeline.test_servers import mlflow_server
from tests.proxy import Proxy

__all__ = ["mlflow_server"]

MINUTES = float(os.environ.get("SEGDIST_CHAOS_MINUTES", "30"))
EPOCHS = 12
AT_WORK = re.compile(r"ray::(ImplicitFunc|_?MapWorker|MapBatches)")
"""Processes that train or label."""
NOT_AT_WORK = ("", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE", "ray::IDLE_SpillWorker")
"""Processes of a node that do nothing for a sweep; a node dies with its agents."""
FEW, MANY = 4, 6
"""Trials of a sweep at first, and once it is widened."""


class Chaos:
    """Sweeps that are driven one after the other, and what happens to them.

    Args:
        folder: of the test.
        text: of a sweep; `NUMBER` stands for its own.
        nodes: of the cluster.
        s3: in front of the storage.
        mlflow: in front of the tracking server.
    """

    def __init__(self, folder: Path, text: str, nodes: Nodes, s3: Proxy, mlflow: Proxy) -> None:
        self._folder, self._text, self._nodes, self._s3, self._mlflow = folder, text, nodes, s3, mlflow
        self._names, self._alive = (f"n{k}" for k in itertools.count()), ["a", "b"]
        self._began, self.done = time.monotonic(), Counter[str]()
        self.trials: dict[str, int] = {}
        """Asked for, by the name of the sweep."""
        self._next_sweep()
        self._driver = self._start()

    def _next_sweep(self) -> None:
        """A sweep of other images: nothing of it is there yet, neither shards nor labels."""
        number = len(self.trials)
        self.sweep = f"tiny{number}"
        self.file(self.sweep).write_text(self._text.replace("NUMBER", str(number)))
        self.trials[self.sweep] = FEW

    def file(self, sweep: str) -> Path:
        """Of a sweep."""
        return self._folder / f"{sweep}.yaml"

    def log(self, sweep: str) -> Path:
        """What all drivers of a sweep wrote."""
        return self._folder / f"{sweep}.log"

    def _start(self) -> subprocess.Popen[bytes]:
        env = {**environment(self._folder), "RAY_ADDRESS": self._nodes.address, "RAY_AUTH_MODE": "disabled"}
        self.done["drivers started"] += 1
        with self.log(self.sweep).open("a") as out:
            words = command("run", self.file(self.sweep), f"search.trials={self.trials[self.sweep]}")
            return subprocess.Popen(words, stdout=out, stderr=out, env=env, start_new_session=True)

    def strike(self, chance: random.Random) -> None:
        """Have one thing happen; afterwards somebody drives: the sweep, a wider one, or the next."""
        acts: dict[str, Callable[[], str]] = {
            "worker": lambda: self._kill_worker(chance),
            "driver": self._kill_driver,
            "node": self._swap_node,
            "mlflow": lambda: self._away(self._mlflow, chance.uniform(1, 15)),
            "503": lambda: self._busy(chance.uniform(1, 10)),
            "slow": lambda: self._slow(20.0),
        }
        name = chance.choice(list(acts))
        what = acts[name]()
        self.done[name if what else f"{name}: none there"] += 1
        self._say(f"{name}: {what or 'none there'}")
        code = self._driver.poll()
        if code is None:
            return
        if code == 0:
            self.done["driven to the end"] += 1
            if self.trials[self.sweep] < MANY:
                self.trials[self.sweep] = MANY
            else:
                self._next_sweep()
        elif code != -signal.SIGKILL:
            self.done[f"drivers that gave up with {code}"] += 1
        self._say(f"driver ended with {code}: {self.sweep}, {self.trials[self.sweep]} trials")
        self._driver = self._start()

    def finish(self) -> None:
        """Drive the last sweep to its end, undisturbed."""
        for _ in range(3):
            if self._driver.wait(1200) == 0:
                return
            self._driver = self._start()
        raise AssertionError(self.log(self.sweep).read_text())

    def close(self) -> None:
        """End the driver."""
        if self._driver.poll() is None:
            self._kill_driver()

    def sum_up(self, place: str) -> None:
        """Write what happened, and what it cost: trials and epochs done, told twice, seconds wasted."""
        ledgers = {name: self.ledger(place, name) for name in self.trials}
        trials = [trial for ledger in ledgers.values() for trial in ledger.trials]
        told = sum(len(re.findall(r"trial \d+ +epoch +\d+/", self.log(name).read_text())) for name in self.trials)
        self._say(f"{dict(sorted(self.done.items()))}")
        self._say(
            f"{len(self.trials)} sweeps, {sum(self.trials.values())} trials asked for, {len(trials)} begun: "
            f"{dict(Counter(t.state for t in trials))}; {sum(t.starts for t in trials)} starts; "
            f"{sum(len(t.epochs) for t in trials)} epochs kept, {told} told"
        )
        self._say(f"spent: {Cost.of((t.spent, t.wasted) for t in trials)}")
        self._say(f"done again: {sum(t.lost.cpu_seconds for t in trials):.0f} CPU-seconds")

    @staticmethod
    def ledger(place: str, sweep: str) -> Ledger:
        """Of a sweep; of no trials where it has none yet."""
        files = storage.find(storage.join(place, "sweeps", sweep), suffix="/0000.json")
        (folder,) = {entry.uri.split("/trials/")[0] for entry in files} or {storage.join(place, "none")}
        return Ledger(folder)

    def _say(self, what: str) -> None:
        sys.stderr.write(f"chaos {time.monotonic() - self._began:6.0f} s  {what}\n")

    def _kill_worker(self, chance: random.Random) -> str:
        """A trial or a labeller where there is one, else another process of the sweep's."""
        found = {pid: _title(pid) for pid in processes(self._folder, "ray::")}
        at_work = [pid for pid, title in found.items() if title not in NOT_AT_WORK]
        if not at_work:
            return ""
        pid = chance.choice([pid for pid in at_work if AT_WORK.match(found[pid])] or at_work)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return found[pid]

    def _kill_driver(self) -> str:
        if self._driver.poll() is not None:
            return ""
        os.killpg(self._driver.pid, signal.SIGKILL)
        self._driver.wait()
        said = self.log(self.sweep).read_text().splitlines()
        return f"after {said[-1].strip() if said else 'nothing'!r}"

    def _swap_node(self) -> str:
        gone = self._alive.pop(0)
        self._nodes.ask("kill", name=gone)
        self._alive.append(next(self._names))
        self._nodes.ask("add", name=self._alive[-1])
        return f"{gone} gone, {self._alive[-1]} there"

    @staticmethod
    def _away(proxy: Proxy, seconds: float) -> str:
        proxy.refuse()
        time.sleep(seconds)
        proxy.accept()
        return f"{seconds:.0f} s"

    def _busy(self, seconds: float) -> str:
        self._s3.is_busy = True
        time.sleep(seconds)
        self._s3.is_busy = False
        return f"{seconds:.0f} s"

    def _slow(self, seconds: float) -> str:
        self._s3.delay = seconds
        time.sleep(seconds)
        self._s3.delay = 0.0
        return f"{seconds:.0f} s"


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60 + 4000)
def test_under_random_kills_and_outages_nothing_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, short_folder: Path, s3_bucket: str, mlflow_server: str, segdist: Command
) -> None:
    place = f"{s3_bucket}/chaos"
    seed = int(os.environ.get("SEGDIST_CHAOS_SEED", "0"))
    with Proxy(os.environ["AWS_ENDPOINT_URL"]) as s3, Proxy(mlflow_server) as mlflow:
        text = (
            SWEEP.format(storage=place).replace("epochs: 6", f"epochs: {EPOCHS}")
            + f"tracking: {{uri: '{mlflow.address}'}}\n"
            + "label: {teacher: {family: sam, sam: {size: tiny}}, images_per_shard: 4}\n"
            + "resources: {max_failures: 1000}\n"
        )
        text = text.replace("data:\n", "data:\n  boxes_only: [train]\n").replace("name: tiny", "name: tinyNUMBER")
        text = text.replace("seed: 1}", "seed: 1NUMBER}")
        with variables({"AWS_ENDPOINT_URL": s3.address}), cluster_of(["a", "b"], tmp_path, short_folder) as nodes:
            chaos, chance = Chaos(tmp_path, text, nodes, s3, mlflow), random.Random(seed)
            try:
                until = time.monotonic() + 60 * MINUTES
                while time.monotonic() < until:
                    time.sleep(chance.uniform(5, 30))
                    chaos.strike(chance)
                chaos.finish()
            finally:
                chaos.close()
                chaos.sum_up(place)

    tracker = Tracker.at(place, mlflow_server)
    for sweep, number in chaos.trials.items():
        said = chaos.log(sweep).read_text()
        assert "Traceback" not in said
        trials = chaos.ledger(place, sweep).trials
        assert [trial.number for trial in trials] == list(range(number))
        assert {trial.state for trial in trials} <= {"finished", "stopped"}, said
        recorded = tracker.trials(tracker.latest_sweep(sweep).run_id)
        assert Counter(one.number for one in recorded) == Counter(range(number)), "each once"
        for one in recorded:
            epochs = [epoch.epoch for epoch in trials[one.number].epochs]
            assert [step for step, _ in tracker.history(one.run_id, "val/iou")] == epochs
            assert epochs == list(range(1, len(epochs) + 1))
        calm = chaos.file(sweep).with_suffix(".calm.yaml")
        calm.write_text(chaos.file(sweep).read_text().replace(place, str(tmp_path / "calm")))
        assert segdist("label", calm).returncode == 0
        assert _labels(segdist, chaos.file(sweep)) == _labels(segdist, calm), "as of a driver that nobody disturbed"


def _title(pid: int) -> str:
    """What Ray calls a process; "" for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().strip(" \0")
    except OSError:
        return ""


def _labels(segdist: Command, file: Path) -> object:
    done = segdist("label", "report", file, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    return found["content_hash"]
