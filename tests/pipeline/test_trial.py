"""What a trial measures of its own model changes nothing of what it learns."""

from pathlib import Path

import pytest

from segdist.core.spec import SweepSpec
from segdist.pipeline.checkpoints import CHECKPOINT
from segdist.pipeline.ingest import ingest
from segdist.pipeline.trial import Job, work

COSTS = {"model/bytes", "runtime/latency_p50_ms", "runtime/latency_p95_ms"}
TIMES = ("second", "first_step_at", CHECKPOINT)


def learned(folder: Path, name: str, *, is_costed: bool, stop_after: int = 0) -> list[dict[str, float]]:
    spec = SweepSpec.model_validate(
        {
            "name": "s",
            "storage": str(folder),
            "data": {"sources": [{"format": "synthetic", "scene": "roofs", "count": 12, "size": 32}]},
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": 32, "width": 8, "depth": 1}},
            "train": {"epochs": 3, "batch_size": 4},
            "evaluate": {"pictures": 0},
        }
    )
    job = Job(spec.run, ingest(spec).uri, "", (), str(folder / name), "val/iou", is_costed=is_costed)
    found: list[dict[str, float]] = []

    def report(metrics: dict[str, float]) -> None:
        found.append(metrics)
        if len(found) == stop_after:
            raise KeyboardInterrupt

    if stop_after:
        with pytest.raises(KeyboardInterrupt):
            work(spec.run, job, 0, 0, report)
        stop_after = 0
        work(spec.run, job, 0, len(found), report)
    else:
        work(spec.run, job, 0, 0, report)
    return found


def test_a_trial_that_is_costed_learns_what_one_that_is_not_does_also_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    plain = learned(tmp_path, "plain", is_costed=False)
    costed = learned(tmp_path, "costed", is_costed=True)
    halted = learned(tmp_path, "halted", is_costed=True, stop_after=1)
    assert len(plain) == len(costed) == len(halted) == 3
    for one, other, again in zip(plain, costed, halted, strict=True):
        scores = {name: value for name, value in one.items() if not any(part in name for part in TIMES)}
        assert "train/loss" in scores
        for same in (other, again):
            assert {name: same[name] for name in scores} == pytest.approx(scores, nan_ok=True)
            assert same.keys() >= COSTS
        assert not COSTS & one.keys()
    assert costed[0]["model/bytes"] > 4 * costed[0]["model/parameters"]
