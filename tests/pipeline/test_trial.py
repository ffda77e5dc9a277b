"""What a trial measures of its own model changes nothing of what it learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray.train.torch
import torch

from segdist.core.errors import DivergedError
from segdist.core.spec import RunSpec, SweepSpec
from segdist.engine import epoch, workers
from segdist.engine import fit as engine_fit
from segdist.engine.workers import Workers
from segdist.pipeline import trial
from segdist.pipeline.checkpoints import CHECKPOINT
from segdist.pipeline.ingest import ingest
from segdist.pipeline.trial import DAMAGED, LOST, Job, work

COSTS = {"model/bytes", "runtime/latency_p50_ms", "runtime/latency_p95_ms"}
STEPS, RATE = 2, 1e-3
"""Of an epoch; of the optimiser."""
TIMES = ("second", "first_step_at", "peak_memory", CHECKPOINT)


def learned(
    folder: Path, name: str, *, is_costed: bool, stop_after: int = 0, is_watched: bool = False
) -> list[dict[str, float]]:
    spec = SweepSpec.model_validate(
        {
            "name": "s",
            "storage": str(folder),
            "data": {"sources": [{"format": "synthetic", "scene": "roofs", "count": 12, "size": 32}]},
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": 32, "width": 8, "depth": 1}},
            "train": {"epochs": 3, "batch_size": 4, "lr": RATE, "warmup": 0.0, "schedule": "constant"},
            "evaluate": {"pictures": 0},
        }
    )
    job = Job(
        spec.run, ingest(spec).uri, "", (), str(folder / name), "val/iou", is_costed=is_costed, is_watched=is_watched
    )
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
    halted = learned(tmp_path, "halted", is_costed=True, stop_after=1, is_watched=True)
    assert len(plain) == len(costed) == len(halted) == 3
    for one, other, again in zip(plain, costed, halted, strict=True):
        scores = {name: value for name, value in one.items() if not any(part in name for part in TIMES)}
        assert "train/loss" in scores
        for same in (other, again):
            assert {name: same[name] for name in scores} == pytest.approx(scores, nan_ok=True)
            assert same.keys() >= COSTS
        assert not COSTS & one.keys()
        assert [0 <= m.get("system/cpu_utilization_percentage", -1) <= 100 for m in (one, again)] == [False, True]
    assert costed[0]["model/bytes"] > 4 * costed[0]["model/parameters"]


def test_a_trial_that_reserved_no_card_leaves_those_of_its_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hides none: sixteen such trials would train on the first."""
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    found: list[torch.device] = []
    monkeypatch.setattr(engine_fit, "fit", lambda *_, **__: found.append(Workers.here().device))
    learned(tmp_path, "trial", is_costed=False)
    assert found == [torch.device("cpu")]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_a_worker_of_a_group_takes_the_card_that_is_its_own(gpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train shows each of them the cards of all on its node."""
    taken: list[torch.device] = []
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(workers, "check_card", lambda: None)
    monkeypatch.setattr(trial, "work", lambda *_, **__: taken.append(torch.device("meta")))
    run = RunSpec.model_validate({"model": {"family": "unet_cbam"}, "resources": {"gpus_per_worker": gpus}})
    trial._train_worker({"run": run.model_dump_json(), "job": None, "number": 0, "known": 0, "driver": "", "news": ""})
    assert [device.type for device in taken] == (["cuda", "meta"] if gpus else ["meta"])


@pytest.mark.parametrize(
    ("lost", "rates"),
    [((STEPS + 1,), [1, 0.5, 0.5]), ((1, 2), [0.25, 0.25, 0.25]), ((2 * STEPS, 4 * STEPS), [1, 0.5, 0.25])],
)
def test_a_trial_whose_loss_is_not_finite_goes_on_from_its_checkpoint_with_half_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...], rates: list[float]
) -> None:
    """Steps of these numbers, counted over all tries, are lost."""
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    breaks_at(monkeypatch, lost)
    found = learned(tmp_path, "trial", is_costed=False)
    assert [m["epoch"] for m in found] == [1, 2, 3]
    assert [m["train/lr"] / RATE for m in found] == pytest.approx(rates)
    said = "\n".join(str(m.get(DAMAGED, "")) for m in found)
    assert said.count("goes on from its checkpoint with half the learning rate: The loss must be finite") == len(lost)


def test_a_loss_that_is_never_finite_fails_a_trial_after_two_halvings_with_the_images_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    breaks_at(monkeypatch, range(4, 100))
    with pytest.raises(DivergedError, match="It went on 2 times from its checkpoint with half the rate") as caught:
        learned(tmp_path, "trial", is_costed=False)
    place = tmp_path / "trial" / "checkpoints" / "0000" / LOST
    assert str(place) in str(caught.value)
    saved = json.loads(place.read_text())
    assert (len(saved["images"]), saved["halvings"]) == (4, 2)


def breaks_at(monkeypatch: pytest.MonkeyPatch, lost: Any) -> None:
    """Makes the loss of some steps no number, counted from 1 over all tries."""
    losses, count = epoch._losses, [0]

    def broken(*given: Any) -> Any:
        count[0] += 1
        return {k: v * (float("nan") if count[0] in lost else 1) for k, v in losses(*given).items()}

    monkeypatch.setattr(epoch, "_losses", broken)
