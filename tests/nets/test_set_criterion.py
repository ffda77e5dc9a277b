"""The set-prediction loss agrees with transformers', except where pixels are ignored."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from segdist.core.plugins import Example
from segdist.nets.collate import ignored, padded_masks
from segdist.nets.matching import FALLBACKS, SURPLUS
from segdist.nets.points import ValidPixels, mask_losses
from segdist.nets.set_criterion import IGNORE_INDEX, Layer, MaskFormerCriterion, Targets
from segdist.reading.examples import pad
from tests.nets.rectangles import EMPTY, ONE, SIZE, example


def targets(*examples: Example) -> Targets:
    crowd = torch.from_numpy(np.stack([pad(e.ignore_HW, SIZE) for e in examples]))
    return Targets(
        [torch.from_numpy(e.labels) for e in examples],
        [padded_masks(e, SIZE) for e in examples],
        ~ignored(examples, SIZE),
        crowd,
    )


def guess(batch: int = 1, *, queries: int = 5, seed: int = 0) -> Layer:
    """Smooth logits at a quarter of the size."""
    generator = torch.Generator().manual_seed(seed)
    coarse_BQhw = torch.randn(batch, queries, 4, 4, generator=generator) * 3
    masks_BQhw = functional.interpolate(coarse_BQhw, (SIZE // 4, SIZE // 4), mode="bilinear")
    classes_BQC = torch.randn(batch, queries, 3, generator=generator)
    return Layer(classes_BQC.requires_grad_(), masks_BQhw.requires_grad_())


def criterion(num_points: int = 4096) -> MaskFormerCriterion:
    return MaskFormerCriterion(num_points=num_points, no_object_weight=0.1)


def test_without_ignored_pixels_it_agrees_with_transformers() -> None:
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


def test_uncertain_objects_count_less_and_their_class_is_spread_as_the_formulas_say() -> None:
    both = targets(example(boxes={(8, 8, 40, 24): 0, (4, 40, 44, 60): 1}))
    unsure = replace(both, weights=[torch.tensor([1.0, 0.25])], smoothing=[torch.tensor([0.0, 0.4])])
    layer = guess(queries=4)
    ours = criterion()
    torch.manual_seed(0)
    found = ours.matcher([ours._costs(layer, unsure, ValidPixels(both.valid_BHW), 0)])
    log_p = np.log(softmax(layer.classes_BQC.detach().double().numpy()[0]))
    expected, total = 0.0, 0.0
    taught = dict(zip(found.query_M.tolist(), found.object_M.tolist(), strict=True))
    for query in range(4):
        share, weight, label = 0.0, 0.1, 2
        if query in taught:
            share, weight, label = (0.0, 1.0, 0) if taught[query] == 0 else (0.4, 0.25, 1)
        expected += weight * -((1 - share) * log_p[query, label] + share * log_p[query].mean())
        total += weight
    assert len(found) == 2
    torch.manual_seed(0)
    assert ours([layer], unsure)["class"].item() == pytest.approx(expected / total, rel=1e-5)


def test_masks_of_uncertain_objects_count_less_as_the_formula_says() -> None:
    """Constant predictions and masks of the whole image: every drawn point says the same."""
    truth = torch.ones(2, 16, dtype=torch.bool)
    pixels = ValidPixels(torch.ones(1, 4, 4, dtype=torch.bool))
    logits, weights, smoothing = np.array([0.5, -1.0]), np.array([1.0, 0.25]), np.array([0.0, 0.4])
    found = mask_losses(
        torch.from_numpy(logits).float()[:, None, None].expand(2, 4, 4),
        torch.zeros(2, dtype=torch.int64),
        torch.arange(2),
        truth_NK=truth,
        pixels=pixels,
        num_points=12,
        weights_N=torch.from_numpy(weights).float(),
        smoothing_N=torch.from_numpy(smoothing).float(),
    )
    taught, p = 1 - smoothing / 2, 1 / (1 + np.exp(-logits))
    bce = np.logaddexp(0, logits) - taught * logits
    dice = 1 - (2 * 12 * p + 1) / (12 * p + 12 + 1)
    assert found["mask"].item() == pytest.approx((bce * weights).sum() / weights.sum(), rel=1e-5)
    assert found["dice"].item() == pytest.approx((dice * weights).sum() / weights.sum(), rel=1e-5)


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(odds / odds.sum(-1, keepdims=True))


def test_several_layers_give_the_mean_of_their_losses() -> None:
    taught, layers = targets(EMPTY), [guess(seed=0), guess(seed=1)]
    alone = [criterion()([layer], taught)["class"].item() for layer in layers]
    assert criterion()(layers, taught)["class"].item() == pytest.approx(sum(alone) / 2)


def test_padding_and_ignored_pixels_get_no_gradient() -> None:
    ignore_HW = np.zeros(ONE.ignore_HW.shape, np.bool_)
    ignore_HW[44:, :] = True
    layer = guess()
    terms = criterion()([layer], targets(replace(ONE, ignore_HW=ignore_HW)))
    (terms["mask"] + terms["dice"]).backward()  # type: ignore[no-untyped-call]
    moved_hw = layer.masks_BQhw.grad.abs().sum((0, 1)) > 0  # type: ignore[union-attr]
    assert moved_hw[:11, :12].all()
    assert not moved_hw[12:].any()  # ignored from row 44 = 4 * 11; row 11 is neighbour to a taught pixel
    assert not moved_hw[:, 13:].any()  # padding from column 48 = 4 * 12


def test_a_query_on_ignored_pixels_is_not_taught_that_nothing_is_there() -> None:
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


def test_an_image_ignored_whole_costs_nothing_and_is_no_nan() -> None:
    layer = guess()
    assert layer.masks_BQhw is not None
    layer.masks_BQhw.data.abs_()
    square = example(boxes={}, size_hw=(SIZE, SIZE))
    terms = criterion()([layer], targets(replace(square, ignore_HW=np.ones((SIZE, SIZE), np.bool_))))
    assert {name: value.item() for name, value in terms.items()} == {"class": 0, "mask": 0, "dice": 0}


def test_a_query_gone_to_infinity_is_counted_and_the_others_are_matched(caplog: pytest.LogCaptureFixture) -> None:
    layer = guess()
    assert layer.masks_BQhw is not None
    layer.masks_BQhw.data[0, 2] = torch.inf
    ours = criterion()
    with caplog.at_level(logging.WARNING):
        terms = ours([layer], targets(ONE))
    assert ours.matcher.counts[FALLBACKS] == 1
    assert "matching fallbacks" in caplog.text
    assert all(torch.isfinite(value) for value in terms.values())


def test_objects_beyond_the_number_of_queries_are_counted() -> None:
    crowded = example(boxes={(x, 8, x + 4, 20): 0 for x in range(0, 40, 5)})
    ours = criterion()
    terms = ours([guess()] * 3, targets(crowded))
    assert ours.matcher.counts[SURPLUS] == 8 - 5
    assert all(torch.isfinite(value) for value in terms.values())


def test_the_right_answer_costs_less_than_a_wrong_one() -> None:
    taught = targets(ONE)
    truth_hw = functional.avg_pool2d(taught.masks[0].float(), 4)[0] * 20 - 10
    right = Layer(torch.tensor([[[9.0, 0, 0], [0, 0, 9.0]]]), torch.stack([truth_hw, -truth_hw])[None])
    wrong = Layer(right.classes_BQC.flip(1), right.masks_BQhw)
    good, bad = criterion()([right], taught), criterion()([wrong], taught)
    assert good["class"].item() < 0.01 < bad["class"].item()
    assert max(good["mask"].item(), good["dice"].item()) < 0.05  # the rim: logits are four times coarser


def test_ignore_index_is_the_class_that_cross_entropy_ignores() -> None:
    logits = torch.randn(2, 3)
    both = functional.cross_entropy(logits, torch.tensor([1, IGNORE_INDEX]), ignore_index=IGNORE_INDEX)
    assert both == functional.cross_entropy(logits[:1], torch.tensor([1]))
