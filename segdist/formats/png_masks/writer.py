"""Mask images out: images/ and masks/ below a folder for each split, and tables of what the numbers mean."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdist.converting.losses import Losses
from segdist.core.errors import DataError
from segdist.core.plugins import DatasetWriter
from segdist.core.records import ReportFinding, Rle, Sample
from segdist.core.spec import Strict
from segdist.core.text import counted
from segdist.formats.png_masks.tables import INSTANCES, KINDS, ImageTable, Kinds, Listed, MaskKind, dump_line
from segdist.reading.label_maps import encode_png, paint

MOST_OBJECTS = 65_535
Layer = NDArray[np.uint16]


class Writer(DatasetWriter):
    """Writes masks as PNG; with `instance_id` nothing is lost, because objects that overlap get several images."""

    class Options(Strict):
        """What the numbers stand for."""

        kind: MaskKind = "instance_id"
        """instance_id: one number an object, and a table. class_id: one a class. binary: 255 for any class."""

    def __init__(self, folder: Path, classes: Sequence[str], options: Options, report: ReportFinding) -> None:
        if len(classes) > MOST_OBJECTS:
            raise DataError(f"A PNG holds at most {MOST_OBJECTS} numbers, but there are {len(classes)} classes.")
        self._folder, self._kind, self._report = folder, options.kind, report
        self._losses = Losses("A mask image", report)
        self._ids = {name: number for number, name in enumerate(classes, 1)}
        self._table = (folder / INSTANCES).open("w", encoding="utf-8") if self._kind == "instance_id" else None

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Write an image and its mask images."""
        below = Path(sample.split)
        for kind in ("images", "masks"):
            (self._folder / below / kind).mkdir(parents=True, exist_ok=True)
        image, mask = below / "images" / file_name, below / "masks" / f"{Path(file_name).stem}.png"
        (self._folder / image).write_bytes(image_bytes)
        if self._table:
            self._table.write(dump_line(self._objects(sample, image, mask)))
        else:
            (self._folder / mask).write_bytes(encode_png(self._painted(sample)))

    def close(self) -> None:
        """Complete the tables."""
        if self._table:
            self._table.close()
        classes: dict[int | str, str] = {number: name for name, number in self._ids.items()}
        if self._kind == "binary":
            classes = {1: next(iter(self._ids)) if len(self._ids) == 1 else "object"}
        content = Kinds(kind=self._kind, classes=classes)
        (self._folder / KINDS).write_text(content.model_dump_json(indent=1), encoding="utf-8")

    def _objects(self, sample: Sample, image: Path, mask: Path) -> ImageTable:
        """Paint each object into the first layer where it touches no other."""
        if len(sample.instances) > MOST_OBJECTS:
            raise DataError(f"A PNG holds at most {MOST_OBJECTS} objects, but {sample.image_id} has more.")
        layers: list[Layer] = [np.zeros(sample.size_hw, np.uint16)]
        listed = []
        for number, one in enumerate(sample.instances, 1):
            has_mask = one.mask is not None and one.mask.area > 0
            if one.mask is not None and has_mask:
                _paint_free(layers, one.mask, number)
            listed.append(
                Listed(
                    id=number if has_mask else 0,
                    label=one.label,
                    box_xyxy=one.box_xyxy,
                    score=one.score,
                    is_crowd=one.is_crowd,
                )
            )
        names = [mask if n == 1 else mask.with_name(f"{mask.stem}.layer{n}.png") for n in range(1, len(layers) + 1)]
        for name, layer in zip(names, layers, strict=True):
            (self._folder / name).write_bytes(encode_png(layer))
        return ImageTable(image=image.as_posix(), masks=tuple(n.as_posix() for n in names), instances=tuple(listed))

    def _painted(self, sample: Sample) -> Layer:
        """All objects in one layer, the large ones first, so that small ones stay visible."""
        values_HW: Layer = np.zeros(sample.size_hw, np.uint16)
        usable, merged = [], Counter[str]()
        for number, one in self._losses.plain(sample):
            if one.mask is None or one.mask.area == 0:
                self._losses("box-dropped", "a mask image has no boxes; it was left out", sample, number, left_out=True)
                continue
            self._losses.box_beside_mask(sample, number)
            if self._kind == "binary" and len(self._ids) > 1:
                self._losses("class-dropped", "a binary mask has one class, called `object`", sample, number)
            merged[one.label if self._kind == "class_id" else ""] += 1
            if merged[one.label if self._kind == "class_id" else ""] > 1:
                self._losses("instance-merged", "it became one region with others of its class", sample, number)
            usable.append((number, one.mask, self._ids[one.label] if self._kind == "class_id" else 255))
        for number, mask, value in sorted(usable, key=lambda item: -item[1].area):
            taken = paint(values_HW, mask, value)
            if taken:
                message = f"it covers {counted(taken, 'pixel')} of a larger object, which lost them"
                self._losses("overlap-dropped", message, sample, number)
        return values_HW


def _paint_free(layers: list[Layer], mask: Rle, number: int) -> None:
    for layer in layers:
        if not paint(layer, mask, number, only_if_free=True):
            return
    layers.append(np.zeros_like(layers[0]))
    paint(layers[-1], mask, number)
