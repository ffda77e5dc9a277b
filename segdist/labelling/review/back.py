"""Masks that came back from an annotation tool: which object each belongs to, and what people decided."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segdist.core import masks
from segdist.core.bounded_json import read_json
from segdist.core.errors import DataError
from segdist.core.records import Instance, Rle, Sample
from segdist.core.text import counted
from segdist.labelling.corrections import Corrections
from segdist.labelling.overlaps import assigned
from segdist.labelling.review import coco, cvat, label_studio
from segdist.labelling.review.queue import Doubt, Task
from segdist.labelling.review.returned import Drawn, Returned, UnreadShape
from segdist.reading.class_names import ClassNames

FILE = "queue.json"
_MOST_SHOWN = 20
"""Things passed over that are named one by one."""


@dataclass(frozen=True)
class Asked:
    """An object of the queue, as the exported folder remembers it."""

    number: int
    image_id: str
    index: int
    file_name: str
    size_hw: tuple[int, int]
    instance: Instance


@dataclass
class Outcome:
    """What people decided.

    Attributes:
        corrections: masks by image and index; None for "there is no such object".
        confirmed: objects whose mask came back unchanged.
        corrected: objects that came back with another mask.
        nothing: objects that were removed, and so are not there.
        unchanged: objects whose mask came back as it was, which on request means that nobody has looked at it.
        undecided: objects that the file says nothing about.
        skipped_shapes: what the file holds besides, in words: what was not understood, or belongs to no object.
    """

    corrections: Corrections = field(default_factory=lambda: Corrections({}))
    confirmed: int = 0
    corrected: int = 0
    nothing: int = 0
    unchanged: int = 0
    undecided: int = 0
    skipped_shapes: list[str] = field(default_factory=list)

    @property
    def first_skipped(self) -> list[str]:
        """What was passed over, as much of it as a person reads."""
        more = len(self.skipped_shapes) - _MOST_SHOWN
        return [*self.skipped_shapes[:_MOST_SHOWN], *([counted(more, "more shape")] if more > 0 else [])]


def write_queue(folder: Path, tasks: Sequence[Task], dataset_hash: str) -> None:
    """Write `queue.json`: what import needs to know of the objects, the proposed masks among it."""
    objects = [_remembered(task, doubt) for task in tasks for doubt in task.doubts]
    (folder / FILE).write_text(json.dumps({"dataset": dataset_hash, "objects": objects}, indent=1))


def read_queue(file: Path, dataset_hash: str, samples: Iterable[Sample]) -> list[Asked]:
    """The objects of a queue, checked against the data set: names and sizes of images are the data set's own.

    Raises:
        DataError: there is no such file, it is damaged, or it is about another data set.
    """
    if not file.is_file():
        raise DataError(f"There is no {file}. It lies in the folder of `segdist label review export`: name it --queue.")
    content = read_json(str(file))
    known = {sample.image_id: sample for sample in samples}
    try:
        if content["dataset"] != dataset_hash:
            came = str(content["dataset"])[:80]
            raise DataError(f"{file} is about the data set {came}, but the sweep's is {dataset_hash}. Export anew.")
        return [_asked(entry, known) for entry in content["objects"]]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file} must be as `segdist label review export` wrote it, but: {error!r}. Export anew."
        ) from None


def read_masks(file: Path, objects: Sequence[Asked]) -> Returned:
    """What a file of CVAT, Label Studio, or anything that writes COCO says about images of the queue.

    The three are distinguished by their content.

    Raises:
        DataError: the file is none of these, or a mask in it does not fit its image.
    """
    if not file.is_file():
        raise DataError(f"There is no file {file}.")
    returned = Returned(file, {one.file_name: one.size_hw for one in objects})
    if file.suffix.lower() == ".xml":
        cvat.read(file, returned)
        return returned
    content = read_json(str(file))
    if isinstance(content, list):
        label_studio.read(content, returned)
    else:
        coco.read(content, returned)
    return returned


def decide(objects: Sequence[Asked], returned: Returned, *, removed_means_nothing: bool, only_changed: bool) -> Outcome:
    """What came back says about the objects.

    A mask belongs to the object whose number the tool kept; without a number to the object of its image and class whose
    box fits best. Several masks of one object are its parts.

    Args:
        objects: of the queue.
        returned: what came back.
        removed_means_nothing: an object that is gone from an image that has come back is not there.
        only_changed: masks that are as proposed have not been looked at.
    """
    outcome = Outcome(skipped_shapes=returned.not_understood)
    of_file: dict[str, list[Asked]] = {}
    for one in objects:
        of_file.setdefault(one.file_name, []).append(one)
    names = ClassNames(lambda _: None, (one.instance.label for one in objects))
    drawn: dict[str, list[Drawn]] = {}
    for mask in returned.drawn:
        label = names.spelled(mask.label, mask.file_name)
        drawn.setdefault(mask.file_name, []).append(replace(mask, label=label))
    unread: dict[str, list[UnreadShape]] = {}
    for shape in returned.unread:
        label = names.spelled(shape.label, shape.file_name)
        unread.setdefault(shape.file_name, []).append(replace(shape, label=label))
    decided: dict[str, dict[int, Rle | None]] = {}
    for name, asked in of_file.items():
        found = _masks_of(asked, drawn.get(name, []), outcome)
        for one in asked:
            mine = found.get(one.number)
            is_gone = name in returned.images and not _stands_for(unread.get(name, []), one, asked)
            if mine is None and not (removed_means_nothing and is_gone):
                outcome.undecided += 1
            elif mine is None:
                outcome.nothing += 1
                decided.setdefault(one.image_id, {})[one.index] = None
            elif mine == one.instance.mask and only_changed:
                outcome.unchanged += 1
            else:
                outcome.confirmed += mine == one.instance.mask
                outcome.corrected += mine != one.instance.mask
                decided.setdefault(one.image_id, {})[one.index] = mine
    outcome.corrections = Corrections(decided)
    return outcome


def _stands_for(unread: Sequence[UnreadShape], one: Asked, asked: Sequence[Asked]) -> bool:
    """Whether a shape that is no mask may be the object: by its number, or without one by its class."""
    numbers = {other.number for other in asked}
    return any(
        shape.number == one.number or (shape.number not in numbers and shape.label in ("", one.instance.label))
        for shape in unread
    )


def _masks_of(asked: Sequence[Asked], drawn: Sequence[Drawn], outcome: Outcome) -> dict[int, Rle]:
    """The mask of each object of an image, by number."""
    numbers = {one.number for one in asked}
    parts: dict[int, list[Rle]] = {}
    for mask in drawn:
        if mask.number in numbers:
            parts.setdefault(mask.number, []).append(mask.mask)
    found = {number: masks.union(rles, size_hw=rles[0].size_hw) for number, rles in parts.items()}
    for label in sorted({d.label for d in drawn}):
        unnamed = [d for d in drawn if d.label == label and d.number not in numbers]
        open_ = [one for one in asked if one.instance.label == label and one.number not in found]
        candidates = [Instance(label, d.mask, d.mask.box_xyxy) for d in unnamed]
        fits = assigned([one.instance for one in open_], candidates)
        given = {one.number: fit.mask for one, fit in zip(open_, fits, strict=True) if fit.mask is not None}
        found.update(given)
        left = len(unnamed) - len(given)
        if left:
            outcome.skipped_shapes.append(
                f"{asked[0].file_name}: {left} x mask of `{label}` that fits no object of the queue"
            )
    return found


def _remembered(task: Task, doubt: Doubt) -> dict[str, object]:
    mask = doubt.mask
    return {
        "number": doubt.number,
        "image_id": doubt.image_id,
        "index": doubt.index,
        "file_name": task.file_name,
        "label": doubt.instance.label,
        "box_xyxy": list(doubt.instance.box_xyxy),
        "verdict": doubt.verdict,
        "score": doubt.instance.score,
        "gain": doubt.gain,
        "mask": {"size": list(mask.size_hw), "counts": mask.counts.decode("ascii")} if mask else None,
    }


def _asked(entry: Any, known: Mapping[str, Sample]) -> Asked:
    sample = known[entry["image_id"]]
    index, number, mask = int(entry["index"]), int(entry["number"]), entry["mask"]
    if not 0 <= index < len(sample.instances):
        raise ValueError(f"the image {sample.image_id} has no object {index}")
    rle = masks.from_coco(mask, size_hw=sample.size_hw) if mask else None
    x1, y1, x2, y2 = map(float, entry["box_xyxy"])
    instance = Instance(str(entry["label"]), rle, (x1, y1, x2, y2), float(entry["score"]))
    return Asked(number, sample.image_id, index, str(entry["file_name"]), sample.size_hw, instance)
