"""YOLO labels out: images/<split>, labels/<split> and data.yaml."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from segdist.data.outlines import outlines, single_polygon
from segdist.records import Finding, Instance, Rle, Sample, Severity
from segdist.spec import Strict

_FOLDERS = {"train": "train", "val": "val", "test": "test", "": "all"}


class Writer:
    """Writes each mask as one polygon along its pixels' edges, which rasterises back to the same mask."""

    class Options(Strict):
        """What the labels are for."""

        task: Literal["segment", "detect"] = "segment"
        """segment: polygons, and boxes where no mask is known. detect: boxes only."""

    def __init__(self, folder: Path, classes: Sequence[str], options: Any, report: Callable[[Finding], None]) -> None:
        self._folder, self._report = folder, report
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
        lines = [self._line(number, one, sample) for number, one in enumerate(sample.instances, 1)]
        labels = self._folder / "labels" / _FOLDERS[sample.split] / f"{Path(file_name).stem}.txt"
        labels.write_text("".join(f"{line}\n" for line in dict.fromkeys(filter(None, lines))))

    def close(self) -> None:
        """Write data.yaml without a `path`, so that the folder may be moved; images without a split stand in no entry."""
        content: dict[str, Any] = {s: f"images/{s}" for s in ("train", "val", "test") if s in self._splits}
        content |= {"nc": len(self._classes), "names": {n: name for name, n in self._ids.items()}}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (self._folder / "data.yaml").write_text(text, encoding="utf-8")
        if self._boxes and self._polygons:
            message = f"{self._boxes} box(es) without a mask stand beside polygons; trainers of masks misread them"
            self._report(Finding("box-beside-masks", Severity.WARNING, message))

    def _line(self, number: int, instance: Instance, sample: Sample) -> str:
        def lost(code: str, message: str, severity: Severity = Severity.WARNING) -> None:
            self._report(Finding(code, severity, message, image=sample.image_id, annotation=str(number)))

        if instance.is_crowd:
            lost("crowd-dropped", "YOLO has no crowds; the region was left out", Severity.SKIPPED)
            return ""
        if instance.score != 1:
            lost("score-dropped", "YOLO labels have no score")
        class_id = self._ids[instance.label]
        if instance.mask is None or self._detects or instance.mask.area == 0:
            if instance.mask is not None:
                lost("mask-dropped", "the mask was written as its box")
            self._boxes += 1
            return f"{class_id} {_box_text(instance, sample.size_hw)}"
        self._polygons += 1
        if max(abs(a - b) for a, b in zip(instance.box_xyxy, instance.mask.box_xyxy, strict=True)) > 1e-3:
            lost("box-from-mask", "beside a polygon there is no box; it comes back as the box of the mask")
        text, loops = _polygon_text(instance.mask)
        if loops > 1:
            lost("parts-bridged", "holes and parts are joined by bridges of no width; other tools may draw them")
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
