"""What is special about RF-DETR-Seg; the contract suite trains it like every other family."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from segdist.core.errors import SpecError, WeightsError
from segdist.core.plugins import Example
from segdist.models.rf_detr import FAMILY, Options
from segdist.models.rf_detr.criterion import DetrCriterion
from segdist.models.rf_detr.network import RfDetr, build
from segdist.nets.matching import SURPLUS
from segdist.nets.set_criterion import Layer, Targets
from segdist.testing.pictures import CLASSES, example

SIZE = 64
ONE, EMPTY = example(SIZE), example(SIZE, objects=False)


def network(seed: int = 0, **options: Any) -> RfDetr:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, **options}), CLASSES)


def many(count: int) -> Example:
    """Bars side by side."""
    masks_NHW = np.zeros((count, SIZE, SIZE), np.bool_)
    for n in range(count):
        masks_NHW[n, 4:60, n] = True
    boxes = np.array([(n, 4, n + 1, 60) for n in range(count)], np.float32)
    return replace(
        ONE,
        image_HWC=np.zeros((SIZE, SIZE, 3), np.uint8),
        labels=np.zeros(count, np.int64),
        masks_NHW=masks_NHW,
        boxes_xyxy=boxes,
        scores=np.ones(count, np.float32),
        ignore_HW=np.zeros((SIZE, SIZE), np.bool_),
    )


def targets(*examples: Example) -> Targets:
    batch = network().collate(examples)
    valid = torch.ones_like(batch["ignored_BSS"])  # transformers' loss knows no ignored pixels
    return Targets(batch["labels"], batch["masks"], valid, batch["crowd_BSS"], boxes_cxcywh=batch["boxes_cxcywh"])


def guess(batch: int, *, queries: int = 12, seed: int = 0) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, queries, 4, 4, generator=generator) * 3
    boxes = torch.rand(batch, queries, 4, generator=generator) * 0.4 + 0.1
    masks = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return Layer(torch.randn(batch, queries, 2, generator=generator), masks, boxes)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_loss_agrees_with_transformers_where_that_works(groups: int) -> None:
    from transformers.loss.loss_rf_detr import RfDetrHungarianMatcher, RfDetrImageLoss

    taught, layer = targets(ONE, many(3)), guess(2)
    labels = [
        {"class_labels": c, "boxes": b, "masks": m}
        for c, b, m in zip(taught.labels, taught.boxes_cxcywh, taught.masks, strict=True)
    ]
    # Masks weigh nothing in the match: both draw their own points, so the matches would differ by chance.
    matcher = RfDetrHungarianMatcher(2, 5, 2, 16, 0, 0)
    reference = RfDetrImageLoss(matcher, 2, 0.25, ["labels", "boxes", "masks"], groups, 1).train()
    outputs = {"logits": layer.classes_BQC, "pred_boxes": layer.boxes_BQ4, "pred_masks": layer.masks_BQhw}
    expected = reference(outputs, labels)
    ours = DetrCriterion(num_queries=12 // groups, points_ratio=1)
    with pytest.MonkeyPatch.context() as patch:
        costs = {"class": 2.0, "box": 5.0, "giou": 2.0, "mask": 0.0, "dice": 0.0}
        patch.setattr(DetrCriterion, "costs", costs)
        found = ours([layer], taught)
    names = {
        "class": "loss_ce",
        "box": "loss_bbox",
        "giou": "loss_giou",
        "mask": "loss_mask_ce",
        "dice": "loss_mask_dice",
    }
    for name, theirs in names.items():
        exact = name not in ("mask", "dice")  # those two are sums over random points
        assert found[name].item() == pytest.approx(expected[theirs].item(), rel=1e-5 if exact else 0.05)


def test_the_class_loss_is_the_formula_in_float64() -> None:
    taught, layer = targets(ONE), guess(1)
    ours = DetrCriterion(num_queries=12, points_ratio=16)
    matches = ours.matcher([ours._costs(layer, taught, _pixels(taught), 0)])
    assert layer.boxes_BQ4 is not None
    p = 1 / (1 + np.exp(-layer.classes_BQC[0].double().numpy()))
    positive, negative = np.zeros_like(p), p**2
    for query, target in zip(matches.query_M.tolist(), matches.object_M.tolist(), strict=True):
        label = int(taught.labels[0][target])
        quality = max(
            p[query, label] ** 0.25 * _iou(layer.boxes_BQ4[0, query], taught.boxes_cxcywh[0][target]) ** 0.75, 0.01
        )
        positive[query, label], negative[query, label] = quality, 1 - quality
    expected = -(positive * np.log(p) + negative * np.log(1 - p)).sum() / 2
    found = ours.class_terms(layer, taught, matches, torch.ones(1, 12, dtype=torch.bool))["class"]
    assert found.item() == pytest.approx(expected, rel=1e-5)


def _pixels(taught: Targets) -> Any:
    from segdist.nets.points import ValidPixels

    return ValidPixels(taught.valid_BHW)


def _iou(a: torch.Tensor, b: torch.Tensor) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.double().tolist(), b.double().tolist()
    width = max(min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2), 0)
    height = max(min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2), 0)
    return width * height / (aw * ah + bw * bh - width * height)


def test_a_batch_in_which_no_image_has_an_object_teaches_that_nothing_is_there() -> None:
    net = network().train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    values = []
    for _ in range(5):
        terms = net(net.collate([EMPTY, EMPTY]))
        assert [terms[name].item() for name in ("box", "giou", "mask", "dice")] == [0, 0, 0, 0]
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        assert not [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
        values.append(terms["class"].item())
        optimizer.step()
        optimizer.zero_grad()
    assert values[-1] < values[0]


def test_every_group_of_queries_learns_in_training_and_one_answers_afterwards() -> None:
    net = network()
    pixels = net.collate([ONE])["pixels_B3SS"]
    queries = net.model.config.num_queries
    assert net.train()._layers(pixels)[-1].classes_BQC.shape[1] == 2 * queries
    assert net.eval()._layers(pixels)[-1].classes_BQC.shape[1] == queries


def test_objects_beyond_one_groups_queries_are_counted() -> None:
    net = network(num_queries=6).train()
    terms = net(net.collate([many(40), EMPTY]))
    assert all(torch.isfinite(value) for value in terms.values())
    assert net.take_counts()[SURPLUS] == 40 - 6


def test_scores_so_sure_that_they_round_to_zero_and_one_give_no_nan() -> None:
    layer = guess(1)
    sure = replace(layer, classes_BQC=torch.where(layer.classes_BQC > 0, 200.0, -200.0))
    terms = DetrCriterion(num_queries=12, points_ratio=16)([sure], targets(ONE))
    assert all(torch.isfinite(value) for value in terms.values())


def test_a_query_on_a_crowd_is_not_taught_that_nothing_is_there() -> None:
    ignore_HW = np.zeros(EMPTY.ignore_HW.shape, np.bool_)
    ignore_HW[:32] = True
    masks = torch.full((1, 2, 32, 32), -5.0)
    masks[0, 0, :12], masks[0, 1, 20:24] = 5.0, 5.0
    classes = torch.zeros(1, 2, 2, requires_grad=True)
    crowd = targets(replace(EMPTY, ignore_HW=ignore_HW))
    terms = DetrCriterion(num_queries=2, points_ratio=16)([Layer(classes, masks, torch.full((1, 2, 4), 0.5))], crowd)
    torch.autograd.backward(terms["class"])
    assert classes.grad is not None
    assert (classes.grad[0, 0] == 0).all()
    assert (classes.grad[0, 1] != 0).all()


def test_an_image_size_that_cuts_windows_and_too_many_queries_are_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of 24 for medium, but got 430"):
        Options(weights="random", image_size=430)
    assert Options(weights="random", size="nano").image_size == 312
    with pytest.raises(SpecError, match="at most the 64 patches"):
        network(num_queries=65)


def test_a_saved_folder_gives_its_weights_and_new_heads_for_our_classes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved = build(Options.model_validate(FAMILY.debug), ("a", "b", "c")).model
    saved.save_pretrained(tmp_path)
    loaded = network(weights=str(tmp_path)).model.state_dict()
    differ = {n for n, value in saved.state_dict().items() if not torch.equal(value, loaded[n])}
    assert differ
    assert all("class_embed" in name for name in differ)


def test_missing_weights_are_an_error_that_says_where_to_get_some() -> None:
    with pytest.raises(WeightsError, match=r"no folder \./nowhere\. Get some: segdist weights get Roboflow"):
        FAMILY.check(Options(weights="./nowhere"))
