"""What is special about Mask2Former; the contract suite trains it like every other family."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from segdist import adapters
from segdist.errors import WeightsError
from segdist.models.mask2former import FAMILY, Options, check
from segdist.models.mask2former.criterion import NON_FINITE, NOT_TAUGHT, TOO_MANY, Criterion, Layer, Targets
from segdist.models.mask2former.network import Mask2Former, build
from segdist.plugins import Example
from segdist.records import Prompt
from segdist.spec import AdapterSpec

CLASSES = ("roof", "tree")
SIZE = 64


def network(seed: int = 0, **options: Any) -> Mask2Former:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, **options}), CLASSES)


def example(*, boxes: Mapping[tuple[int, int, int, int], int], size_hw: tuple[int, int] = (SIZE, 48)) -> Example:
    """Bright rectangles on dark ground: class by (x1, y1, x2, y2)."""
    masks_NHW = np.zeros((len(boxes), *size_hw), np.bool_)
    for mask_HW, (x1, y1, x2, y2) in zip(masks_NHW, boxes, strict=True):
        mask_HW[y1:y2, x1:x2] = True
    image_HWC = np.full((*size_hw, 3), 40, np.uint8)
    image_HWC[masks_NHW.any(axis=0)] = 200
    return Example(
        image_id="drawn",
        image_HWC=image_HWC,
        labels=np.array(list(boxes.values()), np.int64),
        masks_NHW=masks_NHW,
        boxes_xyxy=np.array(list(boxes), np.float32).reshape(-1, 4),
        scores=np.ones(len(boxes), np.float32),
        ignore_HW=np.zeros(size_hw, np.bool_),
    )


ONE = example(boxes={(8, 8, 32, 40): 0})
EMPTY = example(boxes={})


def weighted(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([FAMILY.losses[name] * value for name, value in terms.items()]).sum()


@cache
def collator() -> Mask2Former:
    return network()


def targets(*examples: Example) -> Targets:
    batch = collator().collate(examples)
    return Targets(batch["labels"], batch["masks"], ~batch["ignored_BSS"], batch["crowd_BSS"])


def guess(batch: int = 1, *, queries: int = 5, seed: int = 0) -> Layer:
    """Smooth logits at a quarter of the size."""
    generator = torch.Generator().manual_seed(seed)
    coarse_BQhw = torch.randn(batch, queries, 4, 4, generator=generator) * 3
    masks_BQhw = functional.interpolate(coarse_BQhw, (SIZE // 4, SIZE // 4), mode="bilinear")
    classes_BQC = torch.randn(batch, queries, len(CLASSES) + 1, generator=generator)
    return Layer(classes_BQC.requires_grad_(), masks_BQhw.requires_grad_())


def criterion(num_points: int = 4096) -> Criterion:
    return Criterion(num_points=num_points, no_object_weight=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network of transformers, as a download would leave it, with three classes instead of ours."""
    path = tmp_path_factory.mktemp("weights") / "saved"
    drawn_for_three().save_pretrained(path)
    return path


def drawn_for_three() -> Any:
    torch.manual_seed(1)
    return build(Options.model_validate(FAMILY.debug), ("a", "b", "c")).model


class TestWeights:
    def test_a_saved_folder_gives_its_weights_and_a_new_head_for_our_classes(self, folder: Path) -> None:
        loaded, saved = network(weights=str(folder)).model.state_dict(), drawn_for_three().state_dict()
        assert loaded["class_predictor.weight"].shape[0] == len(CLASSES) + 1
        differ = {name for name in saved.keys() | loaded.keys() if not torch.equal(saved[name], loaded[name])}
        assert differ == {"class_predictor.weight", "class_predictor.bias"}

    def test_another_number_of_queries_starts_them_untrained_and_keeps_the_rest(self, folder: Path) -> None:
        loaded = network(weights=str(folder), num_queries=7)
        batch = loaded.collate([ONE])
        assert loaded.model(batch["pixels_B3SS"]).masks_queries_logits.shape[1] == 7

    def test_a_state_dict_comes_back_bit_for_bit_after_building_again(self, folder: Path) -> None:
        for options in ({}, {"weights": str(folder)}):
            first, second = network(seed=0, **options), network(seed=5, **options)
            second.load_state_dict(first.state_dict())
            image = ONE.image_HWC
            with torch.inference_mode():
                assert first.eval().predict([image], [Prompt()]) == second.eval().predict([image], [Prompt()])
            state = second.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())

    def test_a_folder_that_is_not_there_is_an_error_that_says_where_to_get_one(self, tmp_path: Path) -> None:
        (tmp_path / "weights").mkdir()
        for path in ("./nowhere", str(tmp_path / "nowhere"), str(tmp_path / "weights" / "swin")):
            with pytest.raises(WeightsError, match="hf download"):
                check(Options(weights=path))

    def test_what_looks_like_a_hub_name_is_not_looked_up_before_the_start(self) -> None:
        check(Options(weights="facebook/mask2former-swin-tiny-coco-instance"))
        check(Options(weights="random"))

    def test_an_unreachable_hub_is_an_error_that_names_the_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match="nobody/nothing"):
            network(weights="nobody/nothing")

    def test_a_folder_without_safetensors_is_refused_because_pickles_run_code(
        self, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        torch.save({}, tmp_path / "pytorch_model.bin")
        with pytest.raises(WeightsError, match="safetensors"):
            network(weights=str(tmp_path))

    def test_weights_of_another_network_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr"}))
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(WeightsError, match="detr"):
            check(Options(weights=str(tmp_path)))

    def test_damaged_or_incomplete_weights_are_refused(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        content = (folder / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(WeightsError, match="cannot be loaded"):
            network(weights=str(tmp_path))
        state = load_file(folder / "model.safetensors")
        del state["model.pixel_level_module.decoder.mask_projection.weight"]
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match="mask_projection"):
            network(weights=str(tmp_path))


class TestCriterion:
    def test_without_ignored_pixels_it_agrees_with_transformers(self) -> None:
        from transformers import Mask2FormerConfig
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

        square = (SIZE, SIZE)
        taught = targets(
            example(boxes={(8, 8, 40, 24): 0, (16, 40, 60, 60): 1}, size_hw=square),
            example(boxes={(0, 0, 32, 64): 1}, size_hw=square),
        )
        layer = guess(2)
        reference = Mask2FormerLoss(Mask2FormerConfig(num_labels=2, train_num_points=20000), {})
        labels, masks = list(taught.labels), [m.float() for m in taught.masks]
        torch.manual_seed(0)
        expected = reference(layer.masks_BQhw, layer.classes_BQC, masks, labels)
        found = criterion(20000)([layer], taught)
        for name, theirs in (("class", "loss_cross_entropy"), ("mask", "loss_mask"), ("dice", "loss_dice")):
            assert found[name].item() == pytest.approx(expected[theirs].item(), rel=1e-5 if name == "class" else 0.03)

    def test_several_layers_give_the_mean_of_their_losses(self) -> None:
        taught, layers = targets(EMPTY), [guess(seed=0), guess(seed=1)]
        alone = [criterion()([layer], taught)["class"].item() for layer in layers]
        assert criterion()(layers, taught)["class"].item() == pytest.approx(sum(alone) / 2)

    def test_padding_and_ignored_pixels_get_no_gradient(self) -> None:
        ignore_HW = np.zeros(ONE.ignore_HW.shape, np.bool_)
        ignore_HW[44:, :] = True
        layer = guess()
        terms = criterion()([layer], targets(replace(ONE, ignore_HW=ignore_HW)))
        (terms["mask"] + terms["dice"]).backward()  # type: ignore[no-untyped-call]
        moved_hw = layer.masks_BQhw.grad.abs().sum((0, 1)) > 0  # type: ignore[union-attr]
        assert moved_hw[:11, :12].all()
        assert not moved_hw[12:].any()  # ignored from row 44 = 4 * 11; row 11 is neighbour to a taught pixel
        assert not moved_hw[:, 13:].any()  # padding from column 48 = 4 * 12

    def test_a_query_on_ignored_pixels_is_not_taught_that_nothing_is_there(self) -> None:
        ignore_HW = np.zeros(EMPTY.ignore_HW.shape, np.bool_)
        ignore_HW[:32] = True
        masks_BQhw = torch.full((1, 2, 16, 16), -5.0)
        masks_BQhw[0, 0, :6] = 5.0
        masks_BQhw[0, 1, 10:] = 5.0
        classes_BQC = torch.zeros(1, 2, 3, requires_grad=True)
        crowd = targets(replace(EMPTY, ignore_HW=ignore_HW))
        criterion()([Layer(classes_BQC, masks_BQhw)], crowd)["class"].backward()  # type: ignore[no-untyped-call]
        assert classes_BQC.grad is not None
        assert (classes_BQC.grad[0, 0] == 0).all()
        assert (classes_BQC.grad[0, 1] != 0).all()

    def test_an_image_ignored_whole_costs_nothing_and_is_no_nan(self) -> None:
        layer = guess()
        layer.masks_BQhw.data.abs_()
        square = example(boxes={}, size_hw=(SIZE, SIZE))
        terms = criterion()([layer], targets(replace(square, ignore_HW=np.ones((SIZE, SIZE), np.bool_))))
        assert {name: value.item() for name, value in terms.items()} == {"class": 0, "mask": 0, "dice": 0}

    def test_a_query_gone_to_infinity_is_counted_and_the_others_are_matched(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        layer = guess()
        layer.masks_BQhw.data[0, 2] = torch.inf
        ours = criterion()
        with caplog.at_level(logging.WARNING):
            terms = ours([layer], targets(ONE))
        assert ours.counts == {NON_FINITE: 1}
        assert NON_FINITE in caplog.text
        assert all(torch.isfinite(value) for value in terms.values())

    def test_objects_beyond_the_number_of_queries_are_counted(self) -> None:
        crowded = example(boxes={(x, 8, x + 4, 20): 0 for x in range(0, 40, 5)})
        ours = criterion()
        terms = ours([guess()] * 3, targets(crowded))
        assert ours.counts == {TOO_MANY: 8 - 5}
        assert all(torch.isfinite(value) for value in terms.values())

    def test_the_right_answer_costs_less_than_a_wrong_one(self) -> None:
        taught = targets(ONE)
        truth_hw = functional.avg_pool2d(taught.masks[0].float(), 4)[0] * 20 - 10
        right = Layer(torch.tensor([[[9.0, 0, 0], [0, 0, 9.0]]]), torch.stack([truth_hw, -truth_hw])[None])
        wrong = Layer(right.classes_BQC.flip(1), right.masks_BQhw)
        good, bad = criterion()([right], taught), criterion()([wrong], taught)
        assert good["class"].item() < 0.01 < bad["class"].item()
        assert max(good["mask"].item(), good["dice"].item()) < 0.05  # the rim: logits are four times coarser


class TestTraining:
    @pytest.mark.parametrize("kind", ["full", "lora", "frozen_encoder"])
    @pytest.mark.parametrize("examples", [[ONE, EMPTY], [EMPTY, EMPTY]], ids=["one empty", "all empty"])
    def test_everything_trained_gets_a_gradient_so_ddp_never_waits(self, kind: Any, examples: list[Example]) -> None:
        net = network().train()
        adapters.apply(net, FAMILY, AdapterSpec(kind=kind, rank=2))
        terms = net(net.collate(examples))
        assert terms.keys() == FAMILY.losses.keys()
        assert all(value.ndim == 0 and torch.isfinite(value) for value in terms.values())
        weighted(terms).backward()  # type: ignore[no-untyped-call]
        lost = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert lost == []

    def test_lora_trains_the_new_head_and_leaves_most_of_the_network_alone(self) -> None:
        net = network()
        everything = sum(p.numel() for p in net.parameters())
        adapters.apply(net, FAMILY, AdapterSpec(kind="lora", rank=2))
        trained = {name for name, p in net.named_parameters() if p.requires_grad}
        assert "model.class_predictor.weight" in trained
        assert any("swin" in name and "lora_A" in name for name in trained)
        assert adapters.trained_parameters(net) < 0.05 * everything

    def test_the_encoder_prefix_is_the_swin_backbone(self) -> None:
        names = [name for name, _ in network().named_parameters()]
        inside = [name for name in names if name.startswith(FAMILY.encoder)]
        assert inside
        assert any("swin" in name for name in inside)
        assert not any("swin" in name for name in names if name not in inside)
        assert not any("decoder" in name or "predictor" in name for name in inside)

    def test_training_goes_on_after_a_prediction_under_inference_mode(self) -> None:
        net = network()
        with torch.inference_mode():
            net.eval().predict([ONE.image_HWC], [Prompt()])
        weighted(net.train()(net.collate([ONE]))).backward()  # type: ignore[no-untyped-call]
        assert net.model.class_predictor.weight.grad is not None

    def test_an_object_of_which_no_pixel_is_left_teaches_nothing(self) -> None:
        gone = replace(ONE, masks_NHW=np.zeros_like(ONE.masks_NHW))
        batch = network().collate([gone])
        assert batch["labels"][0].shape == (0,)
        assert batch["masks"][0].shape == (0, SIZE, SIZE)

    def test_bfloat16_autocast_gives_the_losses_in_float32(self) -> None:
        net = network()
        with torch.autocast("cpu", torch.bfloat16):
            terms = net(net.collate([ONE, EMPTY]))
        assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in terms.values())


class TestPrediction:
    def test_scores_are_class_score_times_mean_mask_probability_best_first(self) -> None:
        net = network()
        probabilities_QC = torch.tensor([[0.5, 0.2, 0.3], [0.01, 0.9, 0.09], [0.02, 0.03, 0.95]])
        masks_Qhw = torch.full((3, 16, 16), -4.0)
        masks_Qhw[0, :8, :8] = 2.0
        masks_Qhw[1, :, 8:] = 1.0
        found = net._instances(probabilities_QC.log(), masks_Qhw, (100, 200))
        assert [i.label for i in found] == ["tree", "roof", "tree"]
        inside = [1.0, 2.0, 2.0]
        for instance, score, logit in zip(found, (0.9, 0.5, 0.2), inside, strict=True):
            assert instance.mask is not None
            assert instance.mask.size_hw == (100, 200)
            assert instance.box_xyxy == instance.mask.box_xyxy
            # Enlarging smooths the rim of a mask, so the mean lies between undecided and the value inside.
            assert 0.85 * score * torch.sigmoid(torch.tensor(logit)) < instance.score
            assert instance.score <= score * torch.sigmoid(torch.tensor(logit)) + 1e-6

    def test_each_image_comes_back_at_its_own_size_whatever_it_is_batched_with(self) -> None:
        net = network().eval()
        wide, tall = np.full((40, 100, 3), 90, np.uint8), np.full((130, 30, 3), 160, np.uint8)
        with torch.inference_mode():
            together = net.predict([wide, tall], [Prompt(), Prompt()])
            alone = net.predict([wide], [Prompt()])
            assert net.predict([], []) == []
        for image, found in zip((wide, tall), together, strict=True):
            assert found
            assert {i.mask.size_hw for i in found if i.mask} == {image.shape[:2]}
            assert [i.score for i in found] == sorted((i.score for i in found), reverse=True)
        assert [i.score for i in together[0]] == pytest.approx([i.score for i in alone[0]], rel=1e-3)

    def test_large_images_are_decoded_in_parts_with_the_same_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net = network().eval()
        with torch.inference_mode():
            at_once = net.predict([ONE.image_HWC], [Prompt()])
            monkeypatch.setattr("segdist.models.mask2former.network._PIXELS_AT_ONCE", 1)
            assert net.predict([ONE.image_HWC], [Prompt()]) == at_once

    def test_not_taught_is_the_class_that_cross_entropy_ignores(self) -> None:
        logits = torch.randn(2, 3)
        both = functional.cross_entropy(logits, torch.tensor([1, NOT_TAUGHT]), ignore_index=NOT_TAUGHT)
        assert both == functional.cross_entropy(logits[:1], torch.tensor([1]))
