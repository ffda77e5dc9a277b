"""Another tool's results in COCO's form, read against the annotations they belong to."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdist import masks, registry
from segdist.data.geometry import Problem, box_from_xywh, mask_from_segmentation
from segdist.data.sources import stop_on_errors
from segdist.errors import DataError
from segdist.records import Finding, Instance, Prediction, Rle, Sample, Severity

MOST_SHOWN = 12
"""Problems that fit an error of one screen."""


@dataclass(frozen=True)
class Results:
    """Truth and predictions that belong together.

    Attributes:
        classes: every category of the annotation file, in its order.
        samples: all annotated images.
        found: the predicted instances of each image, by `image_id`; images without any are not in it.
        has_masks: whether any result has a mask; boxes alone are scored as boxes.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    found: Mapping[str, tuple[Instance, ...]]
    has_masks: bool

    def pairs(self) -> Iterator[tuple[Sample, Prediction]]:
        """Each sample with what was found in it."""
        for sample in self.samples:
            yield sample, Prediction(sample.image_id, self.found.get(sample.image_id, ()))


def read_results(predictions: Path, truth: Path) -> Results:
    """Results and the annotations they are measured by; the images themselves are not needed.

    Args:
        predictions: a JSON list of `{image_id, category_id, score, segmentation | bbox}` with the ids of `truth`, as
            COCO's evaluator takes it; or a COCO file with images and categories of its own (as `segdist predict`
            writes), which are matched by name. A segmentation is a list of polygons or either kind of RLE.
        truth: a COCO annotation file.

    Raises:
        DataError: a file is no such JSON, the annotations have errors, or results name unknown images or categories
            or hold malformed masks, boxes or scores; every kind is named with its place in the file.
    """
    content, answers = _load(truth), _load(predictions)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "categories")):
        raise DataError(f"{truth} must be a COCO annotation file with lists `images`, `annotations` and `categories`.")
    findings: list[Finding] = []
    coco = registry.load("formats", "coco")
    samples = tuple(coco.Format(coco.Options(path=str(truth), find_images=False)).read(findings.append))
    stop_on_errors(findings)
    names = _Names.of(content, {s.image_id: s for s in samples})
    listed, names = _listed(answers, names, predictions)
    return _read(listed, names, samples, predictions)


@dataclass(frozen=True)
class _Names:
    """What ids in a results file stand for."""

    samples: Mapping[str, Sample]
    classes: Mapping[str, str]

    @classmethod
    def of(cls, content: Mapping[str, Any], by_name: Mapping[str, Sample]) -> "_Names":
        images = {str(i.get("id")): str(i.get("file_name")) for i in content["images"] if isinstance(i, dict)}
        classes = {str(c.get("id")): str(c.get("name")).strip() for c in content["categories"] if isinstance(c, dict)}
        return cls({key: by_name[name] for key, name in images.items() if name in by_name}, classes)


def _listed(answers: Any, names: _Names, file: Path) -> tuple[list[Any], _Names]:
    """The results, and what their ids stand for."""
    if isinstance(answers, list):
        return answers, names
    if not isinstance(answers, dict) or not all(
        isinstance(answers.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise DataError(
            f"{file} must be a list of results, or a COCO file with lists `images`, `annotations` and `categories`."
        )
    by_name = {Path(s.image_id).name: s for s in names.samples.values()}
    images = [{**i, "file_name": Path(str(i.get("file_name"))).name} for i in answers["images"] if isinstance(i, dict)]
    own = _Names.of({**answers, "images": images}, by_name)
    strangers = sorted(set(own.classes.values()) - set(names.classes.values()))
    if strangers:
        known = ", ".join(names.classes.values())
        raise DataError(
            f"{file} has the category `{strangers[0]}`, which the annotations have not. They have: {known}."
        )
    return answers["annotations"], own


def _read(listed: list[Any], names: _Names, samples: tuple[Sample, ...], file: Path) -> Results:
    found: dict[str, list[Instance]] = {}
    problems: list[str] = []
    has_masks = False
    for number, result in enumerate(listed):
        try:
            sample, instance = _instance(result, names)
        except Problem as problem:
            problems.append(f"  result {number}{_place(result)}: {problem.message}")
            continue
        has_masks |= instance.mask is not None
        found.setdefault(sample.image_id, []).append(instance)
    if problems:
        more = [f"  ... and {len(problems) - MOST_SHOWN} more"] if len(problems) > MOST_SHOWN else []
        raise DataError(
            "\n".join([f"{file}: {len(problems)} of {len(listed)} results are wrong:", *problems[:MOST_SHOWN], *more])
        )
    classes = tuple(dict.fromkeys(names.classes.values()))
    return Results(classes, samples, {k: tuple(v) for k, v in found.items()}, has_masks)


def _instance(result: Any, names: _Names) -> tuple[Sample, Instance]:
    if not isinstance(result, dict):
        raise _problem("a result must be an object with image_id, category_id, score, and segmentation or bbox")
    sample = names.samples.get(str(result.get("image_id")))
    if sample is None:
        raise _problem(f"there is no image with id {result.get('image_id')!r} in the annotations")
    label = names.classes.get(str(result.get("category_id")))
    if label is None:
        raise _problem(f"there is no category with id {result.get('category_id')!r} in the annotations")
    score = result.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise _problem(f"`score` must be a number from 0 to 1, but is {score!r}")
    segmentation = result.get("segmentation")
    if segmentation:
        mask = _mask(segmentation, sample.size_hw)
        return sample, Instance(label, mask, mask.box_xyxy, float(score))
    if result.get("bbox") is None:
        raise _problem("a result needs a `segmentation` or a `bbox`")
    return sample, Instance(label, None, _box(result["bbox"]), float(score))


def _mask(segmentation: Any, size_hw: tuple[int, int]) -> Rle:
    try:
        return mask_from_segmentation(segmentation, size_hw=size_hw, repairs=[])
    except Problem as problem:
        if problem.code in ("mask-empty", "polygon-outside"):
            return masks.empty(size_hw)  # it was found, and is wrong
        raise


def _box(values: Any) -> tuple[float, float, float, float]:
    """As it was predicted, also where it reaches outside the image: COCO's evaluator does not clip either."""
    box_from_xywh(values, size_hw=(2**31, 2**31), repairs=[])
    x, y, width, height = (float(v) for v in values)
    return x, y, x + width, y + height


def _problem(message: str) -> Problem:
    return Problem("result-malformed", Severity.ERROR, message)


def _place(result: Any) -> str:
    return f" (image_id {result['image_id']!r})" if isinstance(result, dict) and "image_id" in result else ""


def _load(file: Path) -> Any:
    if not file.is_file():
        raise DataError(f"There is no file {file}. Name a JSON file.")
    try:
        content = json.loads(file.read_bytes(), parse_constant=lambda _: math.nan)
    except ValueError as error:
        raise DataError(f"{file} must be JSON, but: {error}. Export it again.") from error
    return content
