"""Samples of a data set as a page of pictures: masks drawn over them, filtered by class and split in the browser."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import cv2
import numpy as np

from segdist.core import masks
from segdist.core.errors import DataError, StorageError
from segdist.core.panels import colour
from segdist.core.panels.drawing import CROWD, large_first
from segdist.core.plugins import DatasetFormat
from segdist.core.records import Finding, Instance, Sample
from segdist.core.text import counted
from segdist.pages.base import picture, render, shrunk
from segdist.reading.codes import finding
from segdist.reading.examples import decode_image

LONGEST = 480
"""Pixels of a picture's longest side."""
NO_CLASS = ""


@dataclass(frozen=True)
class Wanted:
    """Which samples to show; empty means all."""

    count: int = 60
    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class SvgInstance:
    """An instance as an SVG path in the pixels of its picture."""

    number: int
    text: str
    path: str
    is_box: bool


@dataclass(frozen=True)
class Card:
    """One picture with what is drawn over it; `classes` are numbers."""

    title: str
    text: str
    split: str
    src: str
    size_hw: tuple[int, int]
    classes: tuple[int, ...]
    shapes: tuple[SvgInstance, ...]


def write_gallery(uri: str, source: DatasetFormat, wanted: Wanted, *, title: str) -> tuple[int, list[Finding]]:
    """Write the page.

    Args:
        uri: where.
        source: the data set.
        wanted: which samples; every class of every split is shown about equally often.
        title: the page's heading.

    Returns:
        How many pictures it has, and which images could not be opened.

    Raises:
        DataError: no sample fits.
    """
    chosen, seen = choose(source, wanted)
    if not chosen:
        known = ", ".join(sorted(seen)) or "none"
        raise DataError(f"No image fits what is wanted. Classes found: {known}. Check `--class` and `--split`.")
    classes = sorted(seen)
    cards, findings = [], []
    for sample in chosen:
        try:
            cards.append(_card(source, sample, classes))
        except (DataError, StorageError) as error:
            findings.append(finding("image-unreadable", str(error), file=sample.image_uri, image=sample.image_id))
    render(
        uri,
        "gallery",
        title=title,
        note=f"{counted(len(cards), 'picture')}, chosen so that every class of every split is seen. "
        f"Point at a mask for its name.",
        cards=cards,
        splits=sorted({card.split for card in cards}, key=("train", "val", "test", "").index),
        classes=[(name, seen[name]) for name in classes],
        shades=[*(colour(k) for k in range(len(classes))), CROWD],
    )
    return len(cards), findings


def choose(source: DatasetFormat, wanted: Wanted) -> tuple[list[Sample], Counter[str]]:
    """Some samples of every class and split, the same for the same seed, and the instances of each class seen.

    Memory holds `count` samples of each class and split at most.
    """
    kept: dict[tuple[str, str], _Lowest] = {}
    seen: Counter[str] = Counter()
    for piece in source.chunks(lambda _: None):
        for sample in piece.samples(lambda _: None):
            labels = {i.label for i in sample.instances}
            seen.update(i.label for i in sample.instances)
            if wanted.splits and sample.split not in wanted.splits:
                continue
            for label in labels & set(wanted.classes) if wanted.classes else labels or {NO_CLASS}:
                kept.setdefault((sample.split, label), _Lowest(wanted.count)).add(_rank(sample, wanted.seed), sample)
    return _round_robin([kept[key].in_order() for key in sorted(kept)], wanted.count), seen


class _Lowest:
    """The samples of lowest rank."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[int, str, Sample]] = []

    def add(self, rank: int, sample: Sample) -> None:
        entry = (-rank, sample.image_id, sample)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif entry[0] > self._heap[0][0]:
            heapq.heapreplace(self._heap, entry)

    def in_order(self) -> list[Sample]:
        return [sample for *_, sample in sorted(self._heap, key=lambda e: (-e[0], e[1]))]


def _rank(sample: Sample, seed: int) -> int:
    """A number drawn for a sample: the same on every machine and in every order."""
    return int.from_bytes(sha256(f"{seed}/{sample.image_id}".encode()).digest()[:6])


def _round_robin(lists: Sequence[Sequence[Sample]], count: int) -> list[Sample]:
    """From each list in turn, each sample once."""
    found: dict[str, Sample] = {}
    for place in range(max(map(len, lists), default=0)):
        for members in lists:
            if place < len(members) and len(found) < count:
                found.setdefault(members[place].image_id, members[place])
    return list(found.values())


def _card(source: DatasetFormat, sample: Sample, classes: Sequence[str]) -> Card:
    image_HWC = decode_image(source.image_bytes(sample), longest=LONGEST, name=sample.image_id)
    small_HWC = shrunk(image_HWC, LONGEST)
    size_hw = (small_HWC.shape[0], small_HWC.shape[1])
    instances = large_first(sample.instances)
    shapes = tuple(_shape(i, sample.size_hw, size_hw, classes) for i in instances)
    return Card(
        title=sample.image_id,
        text=", ".join(filter(None, (sample.split, _amounts(sample.instances), sample.text))),
        split=sample.split,
        src=picture(small_HWC),
        size_hw=size_hw,
        classes=tuple(sorted({classes.index(i.label) for i in sample.instances})),
        shapes=shapes,
    )


def _amounts(instances: Iterable[Instance]) -> str:
    labels = Counter(i.label for i in instances)
    return ", ".join(f"{n} {label}" for label, n in labels.most_common()) or "no object"


def _shape(
    instance: Instance, own_hw: tuple[int, int], size_hw: tuple[int, int], classes: Sequence[str]
) -> SvgInstance:
    number = len(classes) if instance.is_crowd else classes.index(instance.label)
    text = instance.label + (", crowd" if instance.is_crowd else "")
    text += f" {instance.score:.2f}" if instance.score < 1 else ""
    if instance.mask is None:
        down, right = size_hw[0] / own_hw[0], size_hw[1] / own_hw[1]
        x1, y1, x2, y2 = np.round(np.array(instance.box_xyxy) * [right, down, right, down]).astype(int).tolist()
        return SvgInstance(number, text, f"M{x1} {y1}H{x2}V{y2}H{x1}Z", is_box=True)
    return SvgInstance(number, text, outline(masks.decode_resized(instance.mask, size_hw)), is_box=False)


def outline(mask_HW: masks.Mask) -> str:
    """A mask as an SVG path; holes are loops of their own, to be filled by the even-odd rule."""
    contours: object
    contours, _ = cv2.findContours(mask_HW.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    loops = (contour.reshape(-1, 2).tolist() for contour in contours)
    return "".join("M" + "L".join(f"{x} {y}" for x, y in loop) + "Z" for loop in loops)
