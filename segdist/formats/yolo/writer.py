"""YOLO labels out: images/<split>, labels/<split> and data.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml

from segdist.converting.losses import Losses
from segdist.core.plugins import DatasetWriter
from segdist.core.records import Instance, ReportFinding, Rle, Sample
from segdist.core.spec import Strict
from segdist.core.text import counted
from segdist.reading.codes import finding
from segdist.reading.outlines import outlines, single_polygon

_FOLDERS = {"train": "train", "val": "val", "test": "test", "": "all"}


class Writer(DatasetWriter):
    """Writes each mask as one polygon along its pixels' edges, which rasterises back to the same mask."""

    class Options(Strict):
        """What the labels are for."""

        task: Literal["segment", "detect"] = "segment"
        """segment: polygons, and boxes where no mask is known. detect: boxes only."""

    def __init__(self, folder: Path, classes: Sequence[str], options: Options, report: ReportFinding) -> None:
        self._folder, self._report, self._losses = folder, report, Losses("YOLO", report)
        self._detects = options.task == "detect"
        self._ids = {name: number for number, name in enumerate(classes)}
        self._splits: set[str] = set()
        self._boxes = self._polygons = 0

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Write an image and its label file."""
        for kind in ("images", "labels") if sample.split not in self._splits else ():
            (self._folder / kind / _FOLDERS[sample.split]).mkdir(parents=True)
        self._splits.add(sample.split)
        (self._folder / "images" / _FOLDERS[sample.split] / file_name).write_bytes(image_bytes)
        lines: dict[str, int] = {}
        for number, instance in self._losses.plain(sample):
            line = self._line(number, instance, sample)
            if line in lines:
                message = f"it is the same as annotation {lines[line]}; readers of YOLO keep one of two equal lines"
                self._losses("duplicate-dropped", message, sample, number, left_out=True)
            lines.setdefault(line, number)
        labels = self._folder / "labels" / _FOLDERS[sample.split] / f"{Path(file_name).stem}.txt"
        labels.write_text("".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """Write data.yaml: no `path`, so that the folder may be moved; no entries where there are no splits."""
        content: dict[str, object] = {s: f"images/{s}" for s in ("train", "val", "test") if s in self._splits}
        content |= {"nc": len(self._ids), "names": {n: name for name, n in self._ids.items()}}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (self._folder / "data.yaml").write_text(text, encoding="utf-8")
        if self._boxes and self._polygons:
            message = f"{counted(self._boxes, 'box')} without a mask beside polygons; trainers of masks misread them"
            self._report(finding("box-beside-masks", message))

    def _line(self, number: int, instance: Instance, sample: Sample) -> str:
        class_id = self._ids[instance.label]
        if instance.mask is None or self._detects or instance.mask.area == 0:
            if instance.mask is not None:
                self._losses("mask-dropped", "the mask was written as its box", sample, number)
            self._boxes += 1
            return f"{class_id} {_box_text(instance, sample.size_hw)}"
        self._polygons += 1
        self._losses.box_beside_mask(sample, number)
        text, loops = _polygon_text(instance.mask)
        if loops > 1:
            message = "holes and parts are joined by bridges of no width; other tools may draw them"
            self._losses("parts-bridged", message, sample, number)
        return f"{class_id} {text}"


def _box_text(instance: Instance, size_hw: tuple[int, int]) -> str:
    (x1, y1, x2, y2), (height, width) = instance.box_xyxy, size_hw
    values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join(f"{value:.9g}" for value in values)


def _polygon_text(mask: Rle) -> tuple[str, int]:
    """The polygon relative to the image's size, and of how many loops it is made.

    Seven digits place a corner within a hundredth of a pixel up to 65,000 pixels; a fifth is what rasterising allows.
    """
    loops = outlines(mask)
    height, width = mask.size_hw
    relative = single_polygon(loops) / (width, height)
    return " ".join(f"{value:.7g}" for value in relative.ravel().tolist()), len(loops)
