"""Generated truth and predictions with everything that trips an evaluator, and the same as COCO dictionaries."""

from typing import Any

import numpy as np

from segdist.core import masks
from segdist.core.records import Instance, Prediction, Rle, Sample

CLASSES = ("crack", "seam", "trim", "never annotated", "nowhere")


def blob(rng: np.random.Generator, size_hw: tuple[int, int]) -> masks.Mask:
    """One to three rectangles or discs, at times thin."""
    height, width = size_hw
    ys, xs = np.mgrid[:height, :width]
    mask = np.zeros(size_hw, np.bool_)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(1, height // 2), rng.integers(1, width // 2)
        if rng.random() < 0.5:
            mask[y : y + h, x : x + w] = True
        else:
            mask |= ((ys - y) / h) ** 2 + ((xs - x) / w) ** 2 <= 1
    return mask


def shaken(mask: masks.Mask, rng: np.random.Generator, pixels: int) -> masks.Mask:
    """The mask moved a little."""
    return np.roll(mask, tuple(rng.integers(-pixels, pixels + 1, 2)), axis=(0, 1))


def instance(label: str, mask: masks.Mask, score: float = 1.0, *, is_crowd: bool = False) -> Instance:
    rle = masks.encode(mask)
    return Instance(label, rle, rle.box_xyxy, score, is_crowd)


def generated(
    seed: int, *, images: int = 20, size_hw: tuple[int, int] = (60, 80), crowds: bool = True, shake: int = 3
) -> tuple[list[Sample], list[Prediction]]:
    """Samples with multi-part objects, crowds, empty images; predictions that are near, doubled, wrong or missing."""
    rng = np.random.default_rng(seed)
    samples, predictions = [], []
    for number in range(images):
        truths, found = [], []
        for _ in range(0 if number % 5 == 4 else rng.integers(1, 6)):
            mask, label = blob(rng, size_hw), str(rng.choice(CLASSES[:3]))
            truths.append(instance(label, mask, is_crowd=crowds and rng.random() < 0.15))
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                named = str(rng.choice(CLASSES[:4])) if rng.random() < 0.2 else label
                found.append(instance(named, shaken(mask, rng, shake), float(np.round(rng.random(), 1))))
        found += [instance(str(rng.choice(CLASSES[:4])), blob(rng, size_hw), float(rng.random())) for _ in range(2)]
        samples.append(Sample(f"{number:03d}", "", size_hw, tuple(truths)))
        if number % 7 != 6:
            predictions.append(Prediction(f"{number:03d}", tuple(found)))
    return samples, predictions


def coco_truth(samples: list[Sample]) -> dict[str, Any]:
    """As an annotation file."""
    annotations = [_annotation(s, i) for s in samples for i in s.instances]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    return {
        "info": {},
        "images": [{"id": int(s.image_id), "height": s.size_hw[0], "width": s.size_hw[1]} for s in samples],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)],
        "annotations": annotations,
    }


def coco_results(predictions: list[Prediction]) -> list[dict[str, Any]]:
    """As a results file."""
    return [
        {k: v for k, v in _annotation(p, i).items() if k != "iscrowd"} | {"score": i.score}
        for p in predictions
        for i in p.instances
    ]


def _annotation(owner: Sample | Prediction, instance: Instance) -> dict[str, Any]:
    x1, y1, x2, y2 = instance.box_xyxy
    rle: Rle | None = instance.mask
    assert rle is not None
    return {
        "image_id": int(owner.image_id),
        "category_id": CLASSES.index(instance.label) + 1,
        "segmentation": {"size": list(rle.size_hw), "counts": rle.counts.decode()},
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": rle.area,
        "iscrowd": int(instance.is_crowd),
    }
