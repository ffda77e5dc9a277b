"""Trainings of a pack learn what they would learn alone, whatever becomes of the others."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from segdist.core.errors import DivergedError, PreemptedError
from segdist.core.spec import ModelSpec, RunSpec
from segdist.engine.fit import Leaving, Metrics, fit
from segdist.engine.packs import Pack
from segdist.models.sam.network import SegmentAnything
from segdist.models.sam2.network import Sam2
from segdist.nets.promptable.embeddings import EmbeddingCache
from segdist.nets.promptable.segmenter import Promptable
from tests.engine.drawn import CLASSES, Reports, roofs, weights

TRAIN, VAL = roofs(4), roofs(2, seed=1)
LORA = {"kind": "lora", "rank": 2, "alpha": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unet with a frozen encoder": ("unet_cbam", {"width": 8, "depth": 2}, {"kind": "frozen_encoder"}),
    "unet with LoRA": ("unet_cbam", {"width": 8, "depth": 2}, LORA),
    "SAM's decoder": ("sam", {"size": "tiny", "weights": "random", "point_share": 0.5}, {"kind": "frozen_encoder"}),
    "SAM with LoRA": ("sam", {"size": "tiny", "weights": "random"}, LORA),
    "Mask2Former with LoRA": ("mask2former", {"weights": "random", "image_size": 64}, LORA),
    "PaliGemma with LoRA": ("paligemma", {"weights": "random", "image_size": 64, "max_objects": 2}, LORA),
    "SAM 2's decoder": ("sam2", {"weights": "random", "image_size": 96}, {"kind": "frozen_encoder"}),
    "OneFormer's decoder": ("oneformer", {"weights": "random", "image_size": 64}, {"kind": "frozen_encoder"}),
}
Report = Callable[[Metrics, Path | None], None]


def run_of(named: str, **train: Any) -> RunSpec:
    family, options, adapter = FAMILIES[named]
    given = {"epochs": 2, "batch_size": 2, "lr": 1e-3, "precision": "float32", "checkpoint_every": 2, "ema": 0.2}
    return RunSpec.model_validate(
        {
            "model": {"family": family, family: {"image_size": 32, **options}},
            "train": {**given, **train, "adapter": {**adapter, **train.get("adapter", {})}},
            "evaluate": {"pictures": 0, "prompts": "box" if family.startswith("sam") else "none"},
        }
    )


class Fitted:
    """What became of one training."""

    def __init__(self, run: RunSpec, report: Report | None = None) -> None:
        self.run, self.reports, self._report = run, Reports(), report
        self.weights: dict[str, np.ndarray] = {}
        self.error: BaseException | None = None
        self.how: dict[str, Any] = {}

    def __call__(self, pack: Pack | None = None) -> "Fitted":
        try:
            if pack is None:
                self.weights = weights(self._fit(None))
            else:
                with pack.member() as member:
                    self.weights = weights(self._fit(member))
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error
        return self

    def _fit(self, member: Any) -> Any:
        def report(metrics: Metrics, folder: Path | None) -> None:
            self.reports(metrics, folder)
            if self._report:
                self._report(metrics, folder)

        return fit(self.run, CLASSES, train=TRAIN, val=VAL, report=report, member=member, **self.how)


def together(*fitted: Fitted) -> Pack:
    pack = Pack()
    threads = [threading.Thread(target=one, args=(pack,)) for one in fitted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return pack


def assert_alike(fitted: Fitted, alone: Fitted, *, most: float = 1e-4) -> None:
    assert fitted.error is None
    assert [m["epoch"] for m in fitted.reports.metrics] == [m["epoch"] for m in alone.reports.metrics]
    for found, expected in zip(fitted.reports.metrics, alone.reports.metrics, strict=True):
        for name in expected:
            if name.startswith(("train/loss", "train/lr", "train/grad_norm", "val/iou", "model/")):
                assert found[name] == pytest.approx(expected[name], rel=most, abs=most), name
    assert fitted.weights.keys() == alone.weights.keys()
    for name, value in alone.weights.items():
        np.testing.assert_allclose(fitted.weights[name], value, rtol=most, atol=most, err_msg=name)


@pytest.mark.parametrize("named", FAMILIES)
def test_trainings_of_a_pack_learn_what_they_learn_alone(named: str) -> None:
    """Other rates and, of low-rank updates, other ranks and scales than their neighbours'."""
    ranks: Sequence[dict[str, Any]] = [{"rank": 2, "alpha": 4.0}, {"rank": 4, "alpha": 4.0}, {}]
    runs = [
        run_of(named, lr=lr, adapter=rank if "LoRA" in named else {})
        for lr, rank in zip((1e-3, 3e-4, 5e-4), ranks, strict=True)
    ]
    fitted = [Fitted(run) for run in runs]
    pack = together(*fitted)
    assert not pack.refused
    assert pack.at_once
    for one in fitted:
        assert_alike(one, Fitted(one.run)())


def test_what_draws_at_random_between_weights_that_differ_is_computed_for_each_alone() -> None:
    """To the same bits, so that nobody has to know."""
    fitted = [Fitted(run_of("unet with LoRA", lr=lr, adapter={"dropout": 0.5})) for lr in (1e-3, 3e-4)]
    pack = together(*fitted)
    assert "andom" in pack.refused["_enlarged_logits"]
    for one in fitted:
        assert_alike(one, Fitted(one.run)(), most=0)


def test_what_ends_one_training_of_a_pack_does_nothing_to_the_others() -> None:
    """One breaks down when it reports, another's loss is not finite any more."""

    def broken(*_: object) -> None:
        raise OSError("no space left")

    named = "unet with LoRA"
    wild = run_of(named, lr=1e20, grad_clip=1e20, schedule="constant", warmup=0.0)
    fine, breaks, diverges = Fitted(run_of(named)), Fitted(run_of(named, lr=3e-4), broken), Fitted(wild)
    assert not together(fine, breaks, diverges).refused
    assert isinstance(breaks.error, OSError)
    assert isinstance(diverges.error, DivergedError)
    assert_alike(fine, Fitted(fine.run)())


def test_one_that_has_to_leave_its_pack_goes_on_in_another_where_it_was(tmp_path: Path) -> None:
    """In the middle of an epoch, and between the meetings of those that stay."""
    steps, named = iter(range(1, 100)), "unet with LoRA"
    leaves, stays = Fitted(run_of(named, lr=3e-4)), Fitted(run_of(named))

    def save(folder: Path, *_: int) -> None:
        copytree(folder, tmp_path / "saved")

    leaves.how = {"leaving": Leaving(lambda: next(steps) == 1, save)}
    assert not together(leaves, stays).refused
    assert isinstance(leaves.error, PreemptedError)
    assert "step 1 of epoch 1" in str(leaves.error)
    goes_on, other = Fitted(leaves.run), Fitted(run_of(named, lr=2e-3))
    goes_on.how = {"resume": tmp_path / "saved"}
    assert not together(goes_on, other).refused
    for one in (stays, goes_on, other):
        assert_alike(one, Fitted(one.run)())


def test_memory_that_does_not_hold_a_pack_is_told_to_each_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("segdist.engine.packs.at_once", full)
    fitted = [Fitted(run_of("unet with LoRA", lr=lr)) for lr in (1e-3, 3e-4)]
    together(*fitted)
    assert [type(one.error) for one in fitted] == [torch.OutOfMemoryError] * 2


def test_one_that_begins_when_another_is_under_way_learns_what_it_learns_alone() -> None:
    first, later, threads = Fitted(run_of("unet with LoRA", epochs=3)), Fitted(run_of("unet with LoRA", lr=2e-3)), []
    pack = Pack()

    def begin(metrics: Metrics, _: object) -> None:
        if metrics["epoch"] == 1:
            threads.append(threading.Thread(target=later, args=(pack,)))
            threads[0].start()

    first._report = begin
    first(pack)
    threads[0].join()
    for one in (first, later):
        assert_alike(one, Fitted(one.run)())


def test_each_training_of_a_pack_has_the_statistics_of_its_own_batches() -> None:
    """Of the batch norm in SegFormer's head: variances, for no bias before it moves them."""
    model = {"family": "segformer", "segformer": {"weights": "random", "image_size": 32}}
    runs = [run_of("unet with LoRA", lr=lr).model_copy(update={"model": ModelSpec(**model)}) for lr in (1e-3, 3e-4)]
    fitted = [Fitted(run) for run in runs]
    assert not together(*fitted).refused
    for one in fitted:
        alone = Fitted(one.run)()
        statistics = {name: value for name, value in alone.weights.items() if "running_var" in name}
        assert all((value != 1).all() for value in statistics.values()), "they have moved"
        assert statistics
        for name, value in statistics.items():
            np.testing.assert_allclose(one.weights[name], value, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("named", ["SAM's decoder", "SAM 2's decoder"])
def test_a_frozen_encoder_runs_as_often_for_all_as_for_one(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to compare what is computed at once with what each computes alone."""
    networks: dict[str, type[Promptable]] = {"SAM's decoder": SegmentAnything, "SAM 2's decoder": Sam2}
    family, calls = networks[named], list[int]()
    encode = family.encode

    def note(network: Any, images_BCHW: torch.Tensor) -> list[torch.Tensor]:
        calls.append(len(images_BCHW))
        return encode(network, images_BCHW)

    monkeypatch.setattr(family, "encode", note)
    runs = [run_of(named, lr=lr) for lr in (1e-3, 3e-4, 5e-4)]
    assert Fitted(runs[0])().error is None
    alone = calls.copy()
    calls.clear()
    assert not together(*map(Fitted, runs)).refused
    assert calls == alone


def test_a_frozen_encoder_is_in_memory_once_and_embeddings_are_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path))
    written: list[str] = []
    write = EmbeddingCache.write

    def note(cache: EmbeddingCache, key: str, levels: list[torch.Tensor]) -> None:
        written.append(key)
        write(cache, key, levels)

    monkeypatch.setattr(EmbeddingCache, "write", note)
    base = run_of("SAM's decoder", epochs=1)
    runs = [base.override({"model.sam.embeddings": "cache", "train.lr": lr}) for lr in (1e-3, 3e-4)]
    pack, places = Pack(), set[int]()

    def look(*_: object) -> None:
        places.update(n.get_parameter("image_encoder.pos_embed").data_ptr() for n in pack._networks.values())

    fitted = [Fitted(run, look) for run in runs]
    threads = [threading.Thread(target=one, args=(pack,)) for one in fitted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(places) == 1
    assert len(written) == len(set(written)) == len(TRAIN) + len(VAL)
    for one in fitted:
        assert_alike(one, Fitted(one.run)())
