"""The scripts, and what of YAML is a script."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.files import CLUSTER, content, program
from tests.pipeline.conftest import SWEEP

SLURM = CLUSTER / "slurm" / "sweep.sbatch"
STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "scontrol $*"; fi\n',
}


def stand_ins(folder: Path, bodies: dict[str, str]) -> None:
    """Programs that do as much of Slurm's as the script needs of one node."""
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (folder / name).chmod(0o755)


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    task = content("skypilot/sweep.sky.yaml")
    scripts = [*CLUSTER.rglob("*.sh"), *CLUSTER.rglob("*.sbatch")]
    assert len(scripts) == 2
    for name in ("setup", "run"):
        scripts.append(tmp_path / name)
        scripts[-1].write_text("#!/usr/bin/env bash\n" + task[name])
    done = program("shellcheck", *scripts)
    assert done.returncode == 0, done.stdout


def test_a_slurm_script_without_a_sweep_says_how_it_is_called() -> None:
    done = subprocess.run(["bash", SLURM], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "name a sweep file" in done.stderr


def test_slurm_is_asked_for_one_task_a_node_and_to_warn_before_the_time_is_up() -> None:
    asked = re.findall(r"^#SBATCH (\S+)$", SLURM.read_text("utf-8"), re.MULTILINE)
    assert {"--ntasks-per-node=1", "--exclusive", "--signal=B:TERM@300", "--requeue"} <= set(asked)


def test_a_cluster_that_does_not_start_is_no_success(tmp_path: Path) -> None:
    stand_ins(tmp_path, {**STAND_INS, "ray": 'echo "Failed to start Ray"\n'})
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "1",
           "SLURM_JOB_NODELIST": "node", "SEGDIST_VENV": str(tmp_path)}  # fmt: skip
    done = subprocess.run(["bash", SLURM, "a.yaml"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the cluster did not start" in done.stderr


@pytest.mark.slow  # a whole sweep, twice begun
@pytest.mark.skipif(os.geteuid() != 0, reason="Ray's starter looks at all processes: others' need root to be hidden")
def test_a_job_of_slurm_that_is_told_to_stop_queues_again_and_then_finishes(tmp_path: Path) -> None:
    stand_ins(tmp_path, STAND_INS)
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(SWEEP.format(storage=tmp_path / "storage"))
    outside = {"RAY_ADDRESS", "SEGDIST_STORAGE", "RAY_AUTH_TOKEN"}
    env = {
        **{name: value for name, value in os.environ.items() if name not in outside},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path.cwd()),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "node",
        "SEGDIST_VENV": str(Path(sys.executable).parent.parent),
    }
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", str(SLURM), str(sweep)]
    words += ["train.epochs=40", "search.trials=1"]
    log = tmp_path / "first.log"
    with log.open("w") as file:
        job = subprocess.Popen(words, env=env, stdout=file, stderr=file)
        deadline = time.monotonic() + 200
        while not re.search(r"trial 0 +epoch +\d", log.read_text()):
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)  # the batch script alone, as `B:` says
        job.wait(120)
    said = log.read_text()
    assert "stopped by SIGTERM" in said
    assert "scontrol requeue 77" in said
    assert job.returncode == 128 + signal.SIGTERM
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"trial 0 +epoch +1/", done.stdout), "it goes on where it was stopped"
    assert "champion" in done.stdout
