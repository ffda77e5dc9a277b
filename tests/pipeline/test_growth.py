"""What an autoscaler is asked for."""

import json
from pathlib import Path

import pytest

from segdist.pipeline.growth import asked_to_grow
from segdist.sweepfile.loading import load
from tests.pipeline.conftest import SWEEP


def demanded() -> list[dict[str, float]]:
    """What the cluster's autoscaler would read now."""
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL as CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    found: list[dict[str, float]] = json.loads(_internal_kv_get(CHANNEL) or "[]")
    return found


def test_a_cluster_that_can_grow_is_asked_for_as_many_trials_as_are_to_run_at_once_and_no_longer_than_that(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(storage=tmp_path / "storage"))
    asked = [
        "search.concurrency=8",
        "resources.workers=2",
        "resources.gpus_per_worker=0.5",
        "resources.cpus_per_worker=3",
    ]
    spec = load(tmp_path / "tiny.yaml", asked)
    with asked_to_grow(spec):
        assert not demanded(), "a cluster of our own has nowhere to grow"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with asked_to_grow(spec):
        assert demanded() == [{"CPU": 3.0, "GPU": 0.5}] * (3 * 2), "the sweep has three trials"
    assert not demanded()
    with asked_to_grow(load(tmp_path / "tiny.yaml")):
        assert not demanded(), "`auto` takes what is there"
