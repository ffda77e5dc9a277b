"""The classical teacher: finds what stands out, says how sure it is, and refuses to be trained."""

import tracemalloc

import cv2
import numpy as np
import pytest
import torch

from segdist.core import masks, registry
from segdist.core.errors import SpecError
from segdist.core.records import Prompt
from segdist.core.spec import SweepSpec
from segdist.models.classical import Options
from segdist.models.classical.network import build
from segdist.sweepfile.loading import load
from segdist.testing.pictures import picture


def found(image: np.ndarray, box: tuple[float, float, float, float], method: str = "auto") -> tuple[np.ndarray, float]:
    network = build(Options.model_validate({"method": method}), ("a",))
    ((instance,),) = network.predict([image], [Prompt((box,), ("a",))])
    assert instance.mask is not None
    assert instance.box_xyxy == box
    return masks.decode(instance.mask), instance.score


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("method", ["auto", "grabcut", "otsu"])
def test_a_disc_is_found_in_its_box(method: str) -> None:
    image, truth = picture()
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    mask, score = found(noisy, masks.encode(truth["disc"]).box_xyxy, method)
    assert iou(mask, truth["disc"]) > 0.9
    assert score > 0.8


@pytest.mark.parametrize("method", ["grabcut", "otsu", "line"])
def test_a_large_photograph_takes_memory_for_its_pixels_and_little_more(method: str) -> None:
    height, width = 2600, 3800
    ground_HWC = cv2.resize(np.random.default_rng(0).integers(120, 140, (65, 95, 3)).astype(np.uint8), (width, height))
    cv2.ellipse(ground_HWC, (1900, 1300), (1400, 20 if method == "line" else 900), 0, 0, 360, (40, 30, 20), -1)
    truth_HW = (ground_HWC < 90).all(axis=2)
    box = (400.0, 300.0, 3400.0, 2300.0)
    tracemalloc.start()
    mask_HW, _ = found(ground_HWC, box, method)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * height * width + (100 << 20)
    assert iou(mask_HW, np.asarray(truth_HW)) > (0.5 if method == "line" else 0.95)


@pytest.mark.parametrize("colour", [60, 230])
def test_a_dark_or_bright_line_is_found_on_shaded_ground(colour: int) -> None:
    ground = np.tile(np.linspace(120, 190, 120), (80, 1))
    line = np.zeros((80, 120), np.uint8)
    cv2.polylines(line, [np.array([[5, 10], [50, 40], [110, 70]])], isClosed=False, color=1, thickness=3)
    image = np.where(line > 0, colour, ground)[..., None].repeat(3, axis=2).astype(np.uint8)
    mask, _ = found(image, masks.encode(line).box_xyxy)
    assert iou(mask, line > 0) > 0.75


def test_the_same_question_has_the_same_answer() -> None:
    image, truth = picture()
    box = masks.encode(truth["bar"]).box_xyxy
    assert np.array_equal(found(image, box, "grabcut")[0], found(image, box, "grabcut")[0])


def test_flat_boxes_tiny_boxes_and_boxes_outside_are_answered_with_no_confidence() -> None:
    image, _ = picture()
    boxes = ((0.0, 0.0, 12.0, 12.0), (1.0, 1.0, 3.0, 3.0), (500.0, 500.0, 600.0, 600.0), (0.0, 0.0, 128.0, 96.0))
    (answers,) = build(Options(), ("a",)).predict([image], [Prompt(boxes, ("a",) * 4)])
    assert [a.box_xyxy for a in answers] == list(boxes)
    assert [a.score for a in answers[:3]] == [0, 0, 0]
    assert answers[2].mask is None


def test_training_it_is_refused_in_words() -> None:
    network = build(Options(), ("a",))
    with pytest.raises(SpecError, match="has no weights, so it cannot be trained"):
        network(network.collate([]))
    assert not list(network.parameters())
    assert not registry.load("models", "classical").FAMILY.losses
    assert isinstance(network, torch.nn.Module)


def test_a_sweep_that_would_train_it_is_refused_at_its_line(tmp_path: object) -> None:
    file = tmp_path / "s.yaml"  # type: ignore[operator]
    file.write_text(
        f"name: s\nstorage: {tmp_path}\ndata: {{sources: [{{format: synthetic}}]}}\n"
        "label: {teacher: {family: classical}}\nmodel:\n  family: classical\n"
    )
    with pytest.raises(SpecError, match=r"s\.yaml:6: model\.family: `classical` has nothing to train"):
        load(file)
    assert isinstance(load(file, ["model.family=unet_cbam"]), SweepSpec)
