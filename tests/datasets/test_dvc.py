"""A data set under DVC: what is added, pushed to a remote and pulled elsewhere is the same data set."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segdist.core import storage
from segdist.core.masks import encode
from segdist.core.records import Instance, Sample
from segdist.datasets.shards import Dataset, write_manifest, write_shard


def make(root: Path, *, label: str = "crack") -> Dataset:
    """Two shards of three samples."""
    mask_HW = np.zeros((20, 30), np.bool_)
    mask_HW[3:9, 4:12] = True
    rle = encode(mask_HW)
    samples = [
        Sample(f"{n}.png", f"photos/{n}.png", (20, 30), (Instance(label, rle, rle.box_xyxy),), split="train")
        for n in range(3)
    ]
    parts = [
        write_shard(storage.join(str(root), f"shard-{k}.parquet"), [(s, s.image_id.encode()) for s in some])
        for k, some in enumerate((samples[:2], samples[2:]))
    ]
    return write_manifest(str(root), "dataset", (label,), parts)


def dvc(folder: Path, *arguments: str) -> str:
    """Run DVC with a home of its own, asking nobody anything."""
    own = {"HOME": str(folder.parent), "DVC_SITE_CACHE_DIR": str(folder.parent / "site"), "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow  # each of seven DVC commands takes seconds to import
def test_a_store_goes_to_a_remote_and_comes_back_elsewhere(tmp_path: Path) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    made = make(project / "data" / "cracks")
    dvc(project, "init", "--no-scm", "--quiet")
    dvc(project, "config", "core.analytics", "false")
    dvc(project, "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    dvc(project, "add", "data/cracks")
    dvc(project, "push")

    elsewhere.mkdir()
    for name in (".dvc/config", "data/cracks.dvc"):  # what git would bring
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, elsewhere / name)
    dvc(elsewhere, "pull")
    back = Dataset.open(str(elsewhere / "data" / "cracks"))
    assert back.manifest == made.manifest
    assert list(back.rows()) == list(made.rows())

    assert "data/cracks" not in dvc(elsewhere, "status")
    make(elsewhere / "data" / "cracks", label="seam")
    assert "data/cracks" in dvc(elsewhere, "status"), "another content must be another version"
