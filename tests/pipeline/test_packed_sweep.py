"""A sweep whose trials share a process finds what it finds without, also when that process is killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from segdist.core.storage import cache_dir
from segdist.engine.fit import fit
from segdist.pipeline.ingest import ingest
from segdist.pipeline.run import folder_of
from segdist.searching import Ledger
from segdist.sweepfile.loading import load
from tests.engine.drawn import Reports
from tests.pipeline.conftest import SWEEP, command, environment, processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
_LORA = """\
  train.adapter.rank: {{choices: [2, 4]}}
search: {{trials: 4, sampler: grid, asha: null, pack: 4}}
resources: {{cpus_per_worker: {cpus}}}
"""


def test_a_sweep_of_one_process_learns_what_its_trials_learn_alone_and_outlives_the_process(tmp_path: Path) -> None:
    """All of its trials go on from their own checkpoints."""
    file, text = tmp_path / "tiny.yaml", SWEEP.replace("lr: 1e-3}}", "lr: 5e-4, adapter: {{kind: lora, rank: 4}}}}")
    text = text.replace("{{low: 1e-4, high: 1e-2, log: true}}", "{{choices: [5e-4, 2e-4]}}")
    text = text[: text.index("search:")] + _LORA
    file.write_text(text.format(storage=tmp_path / "storage", cpus=os.cpu_count()))
    spec = load(str(file), [])
    folder = Path(folder_of(spec, "sweep"))
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command("run", file), stdout=log, stderr=log, env=environment(tmp_path))
    try:
        while driver.poll() is None and not (_has_begun(folder) and (found := processes(tmp_path, "ray::PackHost"))):
            time.sleep(0.1)
        (host,) = (one for one in found if psutil.Process(one).ppid() not in found)  # not those that decode images
        os.kill(host, signal.SIGKILL)
        assert driver.wait(1200) == 0, (tmp_path / "log").read_text()
    finally:
        driver.kill()

    trials, dataset = Ledger(str(folder)).trials, ingest(spec)
    assert [trial.starts for trial in trials] == [2] * 4, "they shared the process"
    train, val = (dataset.reader(split, cache_dir()) for split in ("train", "val"))
    for trial in trials:
        alone = Reports()
        run = spec.run.override({**trial.settings, "resources.gpus_per_worker": 0})
        fit(run, dataset.manifest.classes, train=train, val=val, report=alone)
        assert len(trial.epochs) == len(alone.metrics)
        for epoch, expected in zip(trial.epochs, alone.metrics, strict=True):
            for name, most in (("train/loss", 1e-4), ("val/iou", 1e-3)):  # a pixel of the validation images is 2.5e-4
                assert epoch.metrics[name] == pytest.approx(expected[name], abs=most), (trial.number, epoch.epoch, name)


def _has_begun(folder: Path) -> bool:
    """Whether every trial has had an epoch."""
    trials = Ledger(str(folder)).trials if folder.exists() else ()
    return len(trials) == 4 and all(trial.epochs for trial in trials)
