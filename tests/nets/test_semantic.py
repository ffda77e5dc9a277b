"""The head of families that say a class for each pixel: what it makes of logits, whatever their size."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from segdist.core.plugins import SEMANTIC_LOSSES, ModelOptions, Objective
from segdist.core.records import Prompt
from segdist.losses import cross_entropy
from segdist.nets.semantic import SemanticSegmenter, regions
from segdist.testing.pictures import CLASSES, example, picture

SIZE = 64


class Coarse(SemanticSegmenter):
    """All that a family has to write: the network, and its logits at some size."""

    def __init__(self, classes: Sequence[str] = CLASSES, *, stride: int = 4) -> None:
        super().__init__(ModelOptions(image_size=SIZE), tuple(classes))
        self.body = nn.Conv2d(3, len(classes) + 1, 7, stride=stride, padding=3)

    def logits(self, images_B3SS: Tensor) -> Tensor:
        found: Tensor = self.body(images_B3SS)
        return found


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_logits_of_any_size_are_compared_with_the_truth_at_the_images_own(stride: int) -> None:
    torch.manual_seed(0)
    network = Coarse(stride=stride)
    batch = network.collate([example(SIZE), example(SIZE, objects=False)])
    terms = network(batch)
    assert terms.keys() == SEMANTIC_LOSSES.keys()
    large = functional.interpolate(network.logits(batch["images"]), (SIZE, SIZE), mode="bilinear")
    torch.testing.assert_close(
        terms["cross_entropy"], cross_entropy(large, batch["target"], ignore_BHW=batch["ignore"])
    )
    (scores,) = network.outputs(batch["images"])
    assert scores.shape == (2, len(CLASSES) + 1, SIZE, SIZE)
    torch.testing.assert_close(scores, large.softmax(1))


def test_a_term_without_a_weight_is_told_and_keeps_nothing_for_the_backward_pass() -> None:
    network = Coarse()
    batch = network.collate([example(SIZE)])
    expected = network(batch)["focal"]
    network.objective = Objective({**SEMANTIC_LOSSES, "cross_entropy": 1.0, "focal": 0.0})
    terms = network(batch)
    assert terms.keys() == {"cross_entropy", "dice", "focal"}
    assert terms["cross_entropy"].requires_grad
    assert not terms["focal"].requires_grad
    torch.testing.assert_close(terms["focal"], expected.detach())


def test_a_prediction_is_one_region_a_class_and_its_pixels_are_the_largest_logits() -> None:
    torch.manual_seed(1)
    network = Coarse().eval()
    image, _ = picture((48, SIZE))
    with torch.inference_mode():
        (found,) = network.predict([image], [Prompt()])
        logits = functional.interpolate(network.logits(network.pixels([image])), (SIZE, SIZE), mode="bilinear")
    expected_HW = logits[0, :, :48].argmax(0).numpy()
    assert network.region_classes == CLASSES
    assert {i.label for i in found} == {CLASSES[k - 1] for k in np.unique(expected_HW) if k}
    assert found
    for instance in found:
        assert instance.mask is not None
        assert instance.mask.area == (expected_HW == 1 + CLASSES.index(instance.label)).sum()


def test_no_images_are_no_predictions() -> None:
    assert Coarse().predict([], []) == []


def test_a_region_is_scored_by_the_mean_over_its_pixels_and_background_is_none() -> None:
    class_HW = torch.tensor([[0, 2, 2], [0, 0, 2]])
    score_HW = torch.tensor([[1.0, 0.5, 0.7], [1.0, 1.0, 0.9]])
    (one,) = regions(class_HW, score_HW, classes=CLASSES)
    assert (one.label, one.box_xyxy) == ("bar", (1, 0, 3, 2))
    assert one.score == pytest.approx(0.7)
