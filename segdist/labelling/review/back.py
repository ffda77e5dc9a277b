"""Masks that came back from an annotation tool: which object each belongs to, and what people decided."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdist import masks
from segdist.errors import DataError
from segdist.labelling.corrections import Corrections
from segdist.labelling.overlaps import assigned
from segdist.labelling.review import coco, cvat, label_studio
from segdist.labelling.review.queue import Doubt, Drawn, Task
from segdist.records import Instance, Rle

FILE = "queue.json"


@dataclass(frozen=True)
class Asked:
    """An object of the queue, as the exported folder remembers it."""

    number: int
    image_id: str
    index: int
    file_name: str
    instance: Instance


@dataclass
class Outcome:
    """What people decided.

    Attributes:
        corrections: masks by image and index; None for "there is no such object".
        confirmed: objects whose mask came back unchanged.
        corrected: objects that came back with another mask.
        nothing: objects that were removed, and so are not there.
        undecided: objects without a mask in the file.
        strangers: what belongs to no object of the queue.
    """

    corrections: Corrections = field(default_factory=lambda: Corrections({}))
    confirmed: int = 0
    corrected: int = 0
    nothing: int = 0
    undecided: int = 0
    strangers: list[str] = field(default_factory=list)


def write_queue(folder: Path, tasks: Sequence[Task], dataset_hash: str) -> None:
    """Write `queue.json`: what import needs to know of the objects, the proposed masks among it."""
    objects = [_remembered(task, doubt) for task in tasks for doubt in task.doubts]
    (folder / FILE).write_text(json.dumps({"dataset": dataset_hash, "objects": objects}, indent=1))


def read_queue(file: Path, dataset_hash: str) -> list[Asked]:
    """The objects of a queue.

    Raises:
        DataError: there is no such file, or it is about another data set.
    """
    if not file.is_file():
        raise DataError(f"There is no {file}. It lies in the folder of `segdist label review export`: name it --queue.")
    content = json.loads(file.read_text())
    if content["dataset"] != dataset_hash:
        raise DataError(
            f"{file} is about the data set {content['dataset']}, but the sweep's is {dataset_hash}. Export anew."
        )
    return [_asked(entry) for entry in content["objects"]]


def read_masks(file: Path) -> Iterator[Drawn]:
    """The masks in a file of CVAT, Label Studio, or anything that writes COCO, told apart by their content.

    Raises:
        DataError: the file is none of these.
    """
    if not file.is_file():
        raise DataError(f"There is no file {file}.")
    if file.suffix.lower() == ".xml":
        yield from cvat.read(file)
        return
    try:
        content: Any = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file} must be COCO or Label Studio JSON, or CVAT XML, but is no JSON: {error}") from error
    yield from label_studio.read(content) if isinstance(content, list) else coco.read(content)


def decide(
    objects: Sequence[Asked], drawn: Iterable[Drawn], *, removed_means_nothing: bool, only_changed: bool
) -> Outcome:
    """What the masks say about the objects.

    A mask belongs to the object whose number the tool kept; without a number to the object of its image and class whose
    box fits best. Several masks of one object are its parts.

    Args:
        objects: of the queue.
        drawn: what came back.
        removed_means_nothing: an object without a mask, in an image that has come back, is not there.
        only_changed: masks that are as proposed have not been looked at.
    """
    outcome = Outcome()
    of_file: dict[str, list[Asked]] = {}
    for one in objects:
        of_file.setdefault(one.file_name, []).append(one)
    came: dict[str, list[Drawn]] = {}
    for mask in drawn:
        came.setdefault(_known_name(mask.file_name, of_file), []).append(mask)
    outcome.strangers += [f"{name}: no such image in the queue" for name in came if name not in of_file]
    decided: dict[str, dict[int, Rle | None]] = {}
    for name, asked in of_file.items():
        found = _masks_of(asked, came.get(name, []), outcome)
        for one in asked:
            mine = found.get(one.number)
            if mine is None and not (removed_means_nothing and name in came):
                outcome.undecided += 1
            elif mine is None:
                outcome.nothing += 1
                decided.setdefault(one.image_id, {})[one.index] = None
            elif mine == one.instance.mask and only_changed:
                outcome.undecided += 1
            else:
                outcome.confirmed += mine == one.instance.mask
                outcome.corrected += mine != one.instance.mask
                decided.setdefault(one.image_id, {})[one.index] = mine
    outcome.corrections = Corrections(decided)
    return outcome


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
        fits = assigned([one.instance for one in open_], candidates) if open_ and candidates else []
        given = {one.number: fit.mask for one, fit in zip(open_, fits, strict=False) if fit.mask is not None}
        found.update(given)
        left = len(unnamed) - len(given)
        if left:
            outcome.strangers.append(f"{asked[0].file_name}: {left} masks of `{label}` fit no object of the queue")
    return found


def _known_name(name: str, of_file: Any) -> str:
    """The name of an exported image, also behind the prefix that Label Studio puts before uploads."""
    short = name.partition("-")[2]
    return short if name not in of_file and short in of_file else name


def _remembered(task: Task, doubt: Doubt) -> dict[str, Any]:
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


def _asked(entry: Any) -> Asked:
    mask = entry["mask"]
    rle = masks.from_coco(mask, size_hw=tuple(mask["size"])) if mask else None
    instance = Instance(entry["label"], rle, tuple(entry["box_xyxy"]), entry["score"])
    return Asked(entry["number"], entry["image_id"], entry["index"], entry["file_name"], instance)
