"""Another tool's results in COCO's form, read against the annotations they belong to."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from segdist.core import masks, registry
from segdist.core.errors import DataError
from segdist.core.records import Box, Finding, Instance, Prediction, Rle, Sample, Severity
from segdist.core.text import counted
from segdist.reading.coco.index import Key, category_entries, image_entries, key_of
from segdist.reading.coco.instances import Categories
from segdist.reading.finding_tally import FindingTally
from segdist.reading.foreign_paths import KnownFiles, Match
from segdist.reading.geometry import UnusableAnnotation, mask_from_segmentation, xywh
from segdist.reading.text_files import read_json

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
        notes: what was repaired or left out, in words.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    found: Mapping[str, tuple[Instance, ...]]
    has_masks: bool
    notes: tuple[str, ...] = ()

    def pairs(self) -> Iterator[tuple[Sample, Prediction]]:
        """Each sample with what was found in it."""
        for sample in self.samples:
            yield sample, Prediction(sample.image_id, self.found.get(sample.image_id, ()))


def read_results(predictions: Path, truth: Path) -> Results:
    """Results and the annotations they are measured by; the images themselves are not needed.

    Ids, names and paths are compared as wherever COCO is read: 7, 7.0 and "7" are one id; the names of classes may
    differ in spelling; a file is the one whose path has the longest ending in common.

    A result's box is the `bbox` that it gives, wherever it lies, and the mask's where it gives none. Masks and boxes
    are measured each for itself; an object is small or large by its mask where masks are measured. pycocotools takes
    the box's area there as soon as the first result has a box, which is why others (Detectron2) leave boxes out then.

    Args:
        predictions: a JSON list of `{image_id, category_id, score, segmentation | bbox}` with the ids of `truth`, as
            COCO's evaluator takes it; or a COCO file with images and categories of its own (as `segdist predict`
            writes), which are matched by name. A segmentation is a list of polygons or either kind of RLE.
        truth: a COCO annotation file.

    Raises:
        DataError: a file is no such JSON, the annotations have errors, or results name unknown images or categories
            or hold malformed masks, boxes or scores; every kind is named with its place in the file.
    """
    noticed = _Noticed()
    for file in (predictions, truth):
        if not file.is_file():
            raise DataError(f"There is no file {file}. Name a JSON file.")
    coco = registry.load("formats", "coco")
    source = coco.Format(coco.Options(path=str(truth), find_images=False, fit_boxes=False))
    samples = tuple(source.read(noticed))
    noticed.stop(truth)
    names, categories = source.ids()
    by_id = {sample.image_id: sample for sample in samples}
    classes = categories.names(source.options.path)
    own = _Ids({k: by_id[name] for k, name in names.items() if name in by_id}, classes, {}, categories.groups)
    listed, ids = _listed(_load(predictions, noticed), own, samples, categories, predictions, noticed)
    noticed.stop(predictions)
    return _read(listed, ids, samples, tuple(dict.fromkeys(own.classes.values())), predictions, noticed)


class _Noticed:
    """Takes findings; errors stop, the others are notes."""

    def __init__(self) -> None:
        self.errors: list[Finding] = []
        self._others = FindingTally()

    def __call__(self, one: Finding) -> None:
        (self.errors.append if one.severity is Severity.ERROR else self._others)(one)

    def stop(self, file: Path) -> None:
        """Raise the errors, if there are any."""
        if self.errors:
            _stop(f"{file}: {len(self.errors)} error{'s' * (len(self.errors) > 1)}", self.errors)

    def notes(self) -> Iterator[str]:
        """What is no error, a line a kind."""
        kinds: Any = self._others.as_json()
        for kind in kinds:
            first = kind["examples"][0]
            place = f" (first: {first['image']})" if first["image"] else ""
            yield f"{kind['severity']}[{kind['code']}] x{kind['count']}: {first['message']}{place}"


@dataclass(frozen=True)
class _Ids:
    """What ids in a results file stand for.

    Attributes:
        samples: by image id.
        classes: class name by category id, as text.
        why: why an image id of the file stands for no annotated image.
        groups: category ids, as text, that only group others: no annotation has one.
    """

    samples: Mapping[Key, Sample]
    classes: Mapping[str, str]
    why: Mapping[Key, str]
    groups: Collection[str] = ()

    def sample(self, image_id: object) -> Sample:
        """The image of an id.

        Raises:
            Problem: it is none of the annotated ones.
        """
        key = key_of(image_id)
        if key not in self.samples:
            raise _problem(self.why.get(key, f"there is no image with id {image_id!r} in the annotations"))
        return self.samples[key]

    def label(self, category_id: object) -> str:
        """The class of an id.

        Raises:
            Problem: it is none of the annotated ones.
        """
        label = self.classes.get(str(key_of(category_id)))
        if label is None:
            raise _problem(f"there is no category with id {category_id!r} in the annotations")
        return label


def _listed(
    answers: object, own: _Ids, samples: Sequence[Sample], categories: Categories, file: Path, noticed: _Noticed
) -> tuple[list[Any], _Ids]:
    """The results, and what their ids stand for."""
    if isinstance(answers, list):
        return answers, own
    keys = ("images", "annotations", "categories")
    if not isinstance(answers, dict) or not all(isinstance(answers.get(key), list) for key in keys):
        raise DataError(
            f"{file} must be a list of results, or a COCO file with lists `images`, `annotations` and `categories`."
        )
    images, results, listed = (answers[key] for key in keys)
    used = {str(key_of(result.get("category_id"))) for result in results if isinstance(result, dict)}
    known = dict.fromkeys(own.classes.values())
    classes = categories.add(str(file), category_entries(str(file), listed, noticed), used)
    for key, name in classes.items():
        if name not in known and key in used:
            raise DataError(
                f"{file} has the category `{name}`, which the annotations have not. They have: {', '.join(known)}."
            )
    by_id = {sample.image_id: sample for sample in samples}
    entries = image_entries(str(file), images, noticed)
    matches = KnownFiles(by_id).match_all([image.file_name for image in entries])
    found = {image.key: matches[image.file_name] for image in entries}
    names = {image.key: image.file_name for image in entries}
    return results, _Ids(
        {key: by_id[match.name] for key, match in found.items() if match.name},
        classes,
        {key: _why(names[key], match, by_id) for key, match in found.items() if not match.name},
    )


def _why(name: str, match: Match, known: Collection[str]) -> str:
    """Why the name of a predicted image means none of the annotated ones."""
    rivals = ", ".join(match.rivals[:3])
    if match.rivals and match.rivals[0] in known:
        return f"`{name}` could be any of {rivals}; write its folder into `file_name`"
    if match.rivals:
        return f"`{name}` means the same annotated image as {rivals}; write its folder into `file_name`"
    return f"`{name}` is no image of the annotations"


def _read(
    listed: list[object],
    ids: _Ids,
    samples: tuple[Sample, ...],
    classes: tuple[str, ...],
    file: Path,
    noticed: _Noticed,
) -> Results:
    found: dict[str, list[Instance]] = {}
    problems: list[str] = []
    masked = negative = grouped = 0
    for number, result in enumerate(listed):
        if isinstance(result, dict) and str(key_of(result.get("category_id"))) in ids.groups:
            grouped += 1
            continue
        try:
            sample, instance = _instance(result, ids)
        except UnusableAnnotation as problem:
            problems.append(f"result {number}{_place(result)}: {problem.message}")
            continue
        masked += instance is not None and instance.mask is not None
        negative += instance is None
        if instance is not None:
            found.setdefault(sample.image_id, []).append(instance)
    if problems:
        _stop(f"{file}: wrong: {len(problems)} of {counted(len(listed), 'result')}", problems)
    notes = [*noticed.notes()]
    if negative:
        notes.append(
            f"{counted(negative, 'box has', 'boxes have')} one negative side, which counts nowhere, as "
            f"in COCO's evaluator"
        )
    if grouped:
        notes.append(
            f"{counted(grouped, 'result is', 'results are')} of a category that only groups others, "
            f"which counts nowhere, as in COCO's evaluator"
        )
    alone = len(listed) - grouped - negative - masked
    if masked and alone:
        notes.append(
            f"boxes without masks: {alone} of {counted(len(listed), 'result')}: wrong wherever masks are measured"
        )
    return Results(classes, samples, {k: tuple(v) for k, v in found.items()}, masked > 0, tuple(notes))


def _instance(result: object, ids: _Ids) -> tuple[Sample, Instance | None]:
    """A result and its image; None for a box that counts nowhere."""
    if not isinstance(result, dict):
        raise _problem("a result must be an object with image_id, category_id, score, and segmentation or bbox")
    sample, label = ids.sample(result.get("image_id")), ids.label(result.get("category_id"))
    score = result.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise _problem(f"`score` must be a number from 0 to 1, but is {score!r}")
    segmentation, bbox = result.get("segmentation"), result.get("bbox")
    if not segmentation and not bbox:
        raise _problem("a result needs a `segmentation` or a `bbox`")
    mask = _mask(segmentation, sample.size_hw) if segmentation else None
    if not bbox:
        assert mask is not None
        return sample, Instance(label, mask, mask.box_xyxy, float(score))
    box_xyxy = _box(bbox)
    if box_xyxy is None and mask is None:
        return sample, None
    return sample, Instance(label, mask, box_xyxy or (0.0, 0.0, 0.0, 0.0), float(score))


def _mask(segmentation: object, size_hw: tuple[int, int]) -> Rle:
    try:
        return mask_from_segmentation(segmentation, size_hw=size_hw, repairs=[])
    except UnusableAnnotation as problem:
        if problem.code in ("mask-empty", "polygon-outside"):
            return masks.empty(size_hw)  # it was found, and is wrong
        raise


def _box(values: object) -> Box | None:
    """As it was predicted, also where it reaches outside the image or has no width: it overlaps nothing and is wrong.

    None where one side is negative: its area is, too, and COCO's evaluator counts such a box neither as right nor as
    wrong. With both sides negative it is wrong.
    """
    x, y, width, height = xywh(values, repairs=[])
    if width < 0 or height < 0:
        return None if width * height < 0 else (x, y, x, y)
    return x, y, x + width, y + height


def _stop(what: str, problems: Sequence[object]) -> NoReturn:
    """Raise a list that fits a screen."""
    more = [f"... and {len(problems) - MOST_SHOWN} more"] if len(problems) > MOST_SHOWN else []
    raise DataError("\n  ".join([f"{what}:", *map(str, problems[:MOST_SHOWN]), *more]))


def _problem(message: str) -> UnusableAnnotation:
    return UnusableAnnotation("result-malformed", Severity.ERROR, message)


def _place(result: object) -> str:
    return f" (image_id {result['image_id']!r})" if isinstance(result, dict) and "image_id" in result else ""


def _load(file: Path, noticed: _Noticed) -> object:
    try:
        return read_json(str(file), noticed)
    except ValueError as error:
        raise DataError(f"{file}: {error}. Export it again.") from error
