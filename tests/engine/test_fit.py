"""A fit learns, resumes to the same bits, says what it measured, and ends when nothing is finite any more."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdist.core.errors import DivergedError, PreemptedError
from segdist.core.spec import RunSpec
from segdist.engine import checkpoint
from segdist.engine.data import loader
from segdist.engine.fit import TRAINING, Leaving, fit
from segdist.engine.pace import Work
from segdist.models.unet_cbam import Options
from segdist.models.unet_cbam.network import UnetCbam
from tests.engine.drawn import CLASSES, Reports, Rows, roofs, tiny_run, weights

TRAIN, VAL = roofs(8), roofs(4, seed=1)


def fitted(run: RunSpec, reports: Reports, *, train: Rows = TRAIN, resume: Path | None = None) -> dict[str, np.ndarray]:
    return weights(fit(run, CLASSES, train=train, val=VAL, report=reports, resume=resume))


def assert_same_bits(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    assert some.keys() == others.keys()
    assert not [name for name, value in some.items() if not np.array_equal(value, others[name])]


def test_the_score_on_held_out_roofs_rises_and_the_loss_falls() -> None:
    reports = Reports()
    fitted(tiny_run(epochs=12, batch_size=2, checkpoint_every=12), reports)
    scores = [m["val/iou"] for m in reports.metrics]
    assert scores[-1] > 0.5
    assert scores[-1] > scores[0] + 0.1
    assert reports.metrics[-1]["train/loss"] < 0.7 * reports.metrics[0]["train/loss"]


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 2, "dropout": 0.5}], ids=str)
def test_a_fit_resumed_after_one_of_two_epochs_ends_with_the_same_bits(adapter: dict[str, Any], tmp_path: Path) -> None:
    """Dropout makes what the random generator gives count, beside the optimiser and its schedule."""
    run = tiny_run(epochs=2, adapter=adapter)
    whole = Reports(tmp_path)
    expected = fitted(run, whole)

    torch.manual_seed(99)  # whatever the process did before
    rest = Reports()
    assert_same_bits(fitted(run, rest, resume=tmp_path / "1"), expected)
    assert [m["epoch"] for m in rest.metrics] == [2]
    for name in ("train/loss", "train/grad_norm", "train/lr", "val/iou"):
        assert rest.metrics[0][name] == whole.metrics[1][name]


def test_a_finished_fit_resumed_trains_no_further(tmp_path: Path) -> None:
    expected = fitted(tiny_run(), Reports(tmp_path))
    rest = Reports()
    assert_same_bits(fitted(tiny_run(), rest, resume=tmp_path / "1"), expected)
    assert not rest.metrics


def test_the_same_seed_gives_the_same_bits_and_another_gives_others() -> None:
    run = tiny_run()
    assert_same_bits(fitted(run, Reports()), fitted(run, Reports()))
    other = fitted(run.override({"seed": 1}), Reports())
    assert not np.array_equal(other["head.weight"], fitted(run, Reports())["head.weight"])


def test_every_epoch_reports_its_metrics_by_name(tmp_path: Path) -> None:
    reports, began = Reports(tmp_path), time.time()
    fitted(tiny_run(epochs=3, checkpoint_every=2), reports)
    named = {
        *("train/loss", "train/loss/cross_entropy", "train/loss/dice", "train/loss/focal"),
        *("train/lr", "train/grad_norm", "train/skipped_steps", "train/images_per_second"),
        *("val/iou", "val/dice", "val/iou/roof", "val/dice/roof", "val/seconds_per_image"),
        *("epoch", "seconds", "diverged", "first_step_at"),
    }
    assert [m["epoch"] for m in reports.metrics] == [1, 2, 3]
    trained = sum(p.numel() for p in UnetCbam(Options(image_size=32, width=8, depth=2), CLASSES).parameters())
    for metrics in reports.metrics:
        assert named <= metrics.keys()
        assert metrics["model/parameters"] == metrics["model/trained_parameters"] == trained
        assert metrics["model/adapter_bytes"] == 4 * trained, "as float32"
        assert metrics["train/phase"] == 1
        assert 0 < metrics["seconds"] < time.time() - began
        assert metrics["train/images_per_second"] >= len(TRAIN) / metrics["seconds"], "which include the evaluation"
        assert began < metrics["first_step_at"] < time.time()
    assert len({m["first_step_at"] for m in reports.metrics}) == 1
    for metrics in reports.metrics:
        assert metrics["diverged"] == metrics["train/skipped_steps"] == 0
        assert metrics["train/loss"] == pytest.approx(
            metrics["train/loss/cross_entropy"] + metrics["train/loss/dice"], rel=1e-5
        )
    assert reports.saved == [False, True, True], "every second epoch, and the last"
    assert reports.metrics[-1]["train/lr"] == pytest.approx(0.0, abs=1e-9)
    assert len(list((tmp_path / "3" / "pictures").iterdir())) == 1


def broken(term: torch.Tensor) -> torch.Tensor:
    """A finite value whose gradient, if it has one, is not."""
    if term.requires_grad:
        term.register_hook(lambda gradient: gradient * float("inf"))  # type: ignore[no-untyped-call]
    return term


def test_gradients_that_are_never_finite_end_the_fit_without_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = UnetCbam.forward
    monkeypatch.setattr(
        UnetCbam, "forward", lambda self, batch: {k: broken(v) for k, v in forward(self, batch).items()}
    )
    reports = Reports()
    values = fitted(tiny_run(epochs=3), reports)
    assert len(reports.metrics) == 1, "nothing after the first epoch"
    assert reports.saved == [False]
    (metrics,) = reports.metrics
    assert (metrics["diverged"], metrics["val/iou"], metrics["val/dice"], metrics["epoch"]) == (1, 0, 0, 1)
    assert metrics["train/skipped_steps"] == 2
    assert all(np.isfinite(v).all() for v in values.values()), "no step was taken"


def test_one_step_whose_gradient_is_not_finite_is_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = UnetCbam.forward, []

    def sometimes(self: UnetCbam, batch: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        return {k: broken(v) if len(calls) == 1 else v for k, v in forward(self, batch).items()}

    monkeypatch.setattr(UnetCbam, "forward", sometimes)
    reports = Reports()
    values = fitted(tiny_run(), reports)
    assert reports.metrics[0]["train/skipped_steps"] == 1
    assert reports.metrics[0]["diverged"] == 0
    assert reports.saved == [True]
    assert all(np.isfinite(v).all() for v in values.values())


def test_a_loss_that_is_not_finite_ends_the_fit_with_the_images_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, seen = UnetCbam.forward, list[Any]()

    def lost_in_the_fourth(self: UnetCbam, batch: Any) -> dict[str, torch.Tensor]:
        seen.append(batch)
        return {k: v * (float("nan") if len(seen) == 4 else 1.0) for k, v in forward(self, batch).items()}

    monkeypatch.setattr(UnetCbam, "forward", lost_in_the_fourth)
    reports = Reports()
    run = tiny_run(epochs=3, batch_size=4, augment=[]).override({"resources.micro_batch": 2})
    with pytest.raises(
        DivergedError, match="of step 2 of epoch 1 it is not \\(cross_entropy, dice, focal, loss"
    ) as caught:
        fitted(run, reports)
    assert not reports.metrics
    shown = {image.tobytes() for batch in seen[2:4] for image in batch["images"].numpy()}
    network = UnetCbam(Options(image_size=32, width=8, depth=2), CLASSES)
    named = [row for row in TRAIN if row[0].image_id in caught.value.images]
    alone, _ = loader(network, named, run, rank=0, world_size=1, pin_memory=False)
    assert {image.tobytes() for batch in alone for image in batch["images"].numpy()} == shown
    assert all(name in str(caught.value) for name in caught.value.images)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_resumed_fit_goes_on_at_the_rate_that_is_asked_for_now(schedule: str, tmp_path: Path) -> None:
    run = tiny_run(epochs=4, schedule=schedule, checkpoint_every=2, encoder_lr_factor=0.5)
    whole, same, half, slower = (Reports(folder) for folder in (tmp_path, None, tmp_path / "half", None))
    fitted(run, whole)
    fitted(run, same, resume=tmp_path / "2")
    (tmp_path / "half").mkdir()
    fit(run, CLASSES, train=TRAIN, val=VAL, report=half, resume=tmp_path / "2", halvings=1)
    fitted(run.override({"train.lr": run.train.lr / 4}), slower, resume=tmp_path / "2")
    rates = [m["train/lr"] for m in whole.metrics[2:]]
    assert [m["train/lr"] for m in same.metrics] == rates
    assert [m["train/lr"] for m in half.metrics] == pytest.approx([rate / 2 for rate in rates])
    assert [m["train/lr"] for m in slower.metrics] == pytest.approx([rate / 4 for rate in rates])
    assert torch.load(tmp_path / "half" / "4" / TRAINING, weights_only=True)["halvings"] == 1


def test_micro_batches_move_the_weights_as_the_whole_batch_does() -> None:
    run = tiny_run(epochs=2, loss={"focal": 0.5, "lovasz": 0.5, "boundary": 0.01, "edge": 0.5}, lr=1e-3, warmup=0.0)
    start, expected = weights(checkpoint.build(run.model, CLASSES, seed=run.seed)), Reports()
    whole = fitted(run, expected)
    for micro_batch in (1, 2, 3):
        found = Reports()
        parts = fitted(run.override({"resources.micro_batch": micro_batch}), found)
        # Adam turns rounding in a gradient near zero into a whole step of that one value, so the whole move counts.
        apart = sum(float(((whole[n] - parts[n]) ** 2).sum()) for n in whole)
        moved = sum(float(((whole[n] - start[n]) ** 2).sum()) for n in whole)
        assert apart < 1e-3 * moved, micro_batch
        for one, two in zip(expected.metrics, found.metrics, strict=True):
            for name in ("train/loss", "train/grad_norm", "train/lr"):
                assert two[name] == pytest.approx(one[name], rel=1e-3), (micro_batch, name)


def test_a_loss_weight_of_zero_switches_a_term_off() -> None:
    """Left with nothing, the weights stay; with the term alone, the loss is the term."""
    still = tiny_run(loss={"cross_entropy": 0.0, "dice": 0.0, "focal": 0.0}, weight_decay=0.0)
    reports = Reports()
    values = fitted(still, reports)
    assert reports.metrics[0]["train/loss"] == 0
    assert reports.metrics[0]["train/grad_norm"] == 0
    assert_same_bits(values, fitted(still.override({"train.lr": 1.0}), Reports()))

    only_dice = Reports()
    fitted(tiny_run(loss={"cross_entropy": 0.0}), only_dice)
    assert only_dice.metrics[0]["train/loss"] == pytest.approx(only_dice.metrics[0]["train/loss/dice"], rel=1e-6)
    assert only_dice.metrics[0]["train/loss/cross_entropy"] > 0, "reported all the same"


def test_what_a_family_counts_is_reported_for_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnetCbam, "take_counts", lambda _: {"matching_fallbacks": 3.0}, raising=False)
    reports = Reports()
    fitted(tiny_run(), reports)
    assert reports.metrics[0]["train/matching_fallbacks"] == 3


def test_the_work_that_is_told_is_all_of_it_and_changes_no_bit() -> None:
    heard = list[Work]()
    run = tiny_run(epochs=2, batch_size=3)
    expected = fitted(run, Reports())
    found = weights(fit(run, CLASSES, train=TRAIN, val=VAL, report=Reports(), on_work=heard.append))
    assert_same_bits(found, expected)
    assert sum(work.images for work in heard) == 2 * len(TRAIN)
    assert sum(work.steps for work in heard) == 2 * 3
    assert {part for work in heard for part in work.seconds} == {
        "data", "forward", "backward", "update", "score", "report"
    }  # fmt: skip


@pytest.mark.parametrize("at", [1, 3, 4, 6])
def test_a_fit_left_in_the_middle_of_an_epoch_ends_elsewhere_with_the_same_bits_and_metrics(
    at: int, tmp_path: Path
) -> None:
    """Left twice: after a step of the first epoch, its last one or while it is scored, and after one of the second."""
    run = tiny_run(epochs=2, batch_size=2, adapter={"kind": "lora", "rank": 2, "dropout": 0.5}, ema=0.5)
    whole = Reports()
    expected = fitted(run, whole)

    rest, left = Reports(), list[tuple[int, int]]()
    places: list[Path | None] = [None]
    steps_of_first = min(at, 4)
    for asked_after in (at, 4 - steps_of_first + len(VAL) + 1, None):
        calls = iter(range(1, 99))

        def save(folder: Path, epochs: int, steps: int) -> None:
            left.append((epochs, steps))
            places.append(folder.rename(tmp_path / f"{len(places)}"))
            folder.mkdir()

        leaving = Leaving(lambda calls=calls, asked_after=asked_after: next(calls) == asked_after, save)  # type: ignore[misc]
        torch.manual_seed(99)  # whatever the process did before
        if asked_after is None:
            ended = fit(run, CLASSES, train=TRAIN, val=VAL, report=rest, resume=places[-1], leaving=leaving)
        else:
            with pytest.raises(PreemptedError, match=r"it is saved after step \d of epoch \d"):
                fit(run, CLASSES, train=TRAIN, val=VAL, report=rest, resume=places[-1], leaving=leaving)
    assert left == [(0, steps_of_first), (1, 1)]
    assert_same_bits(weights(ended), expected)
    for mine, wanted in zip(rest.metrics, whole.metrics, strict=True):
        assert mine.keys() == wanted.keys()
        for name in ("epoch", "train/loss", "train/loss/dice", "train/grad_norm", "train/lr", "val/iou"):
            assert mine[name] == pytest.approx(wanted[name], rel=1e-12), name
