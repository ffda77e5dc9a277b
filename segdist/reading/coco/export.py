"""COCO JSON out, in the layout that Roboflow made common: a folder for each split with its images and one JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from segdist.core.plugins import DatasetWriter
from segdist.core.records import ReportFinding, Sample
from segdist.core.spec import Strict

ANNOTATIONS = "_annotations.coco.json"
CONVERSION = "conversion.json"
"""What a conversion lost, beside the data it made; no annotations of its own."""
_FOLDERS = {"train": "train", "val": "valid", "test": "test", "": ""}


class Writer(DatasetWriter):
    """Writes masks as compressed run lengths, so that every one comes back to the pixel."""

    class Options(Strict):
        """There is nothing to choose."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        options: Options,  # noqa: ARG002 - there are none
        report: ReportFinding,  # noqa: ARG002 - nothing is lost
    ) -> None:
        self._folder, self._ids = folder, {name: number for number, name in enumerate(classes, 1)}
        self._parts: dict[str, _Part] = {}
        self._licences: list[dict[str, object]] = []

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Write the image as it is and remember its entry."""
        part = self._parts.get(sample.split)
        if part is None:
            part = self._parts[sample.split] = _Part(self._folder / _FOLDERS[sample.split])
        part.add(sample, image_bytes, file_name, self._ids)

    def state_licences(self, names: Sequence[str]) -> None:
        """Keep the licences for every file."""
        self._licences = [{"id": number, "name": name, "url": ""} for number, name in enumerate(names, 1)]

    def close(self) -> None:
        """Complete the JSON file of each split."""
        categories = [{"id": number, "name": name, "supercategory": ""} for name, number in self._ids.items()]
        for part in self._parts.values():
            part.close(categories, self._licences)


class _Part:
    """One split; annotations go to disk as they come, so that a million of them need no memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._images: list[dict[str, object]] = []
        self._count = 0
        self._stream: TextIO = (folder / ANNOTATIONS).open("w", encoding="utf-8")
        self._stream.write('{"annotations": [')

    def add(self, sample: Sample, image_bytes: bytes, file_name: str, ids: dict[str, int]) -> None:
        (self._folder / file_name).write_bytes(image_bytes)
        image_id = len(self._images) + 1
        height, width = sample.size_hw
        self._images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for instance in sample.instances:
            self._count += 1
            entry = instance.to_coco(number=self._count, image_id=image_id, category_id=ids[instance.label])
            self._stream.write(("\n" if self._count == 1 else ",\n") + json.dumps(entry))

    def close(self, categories: list[dict[str, object]], licences: list[dict[str, object]]) -> None:
        rest = json.dumps({"images": self._images, "categories": categories, "licenses": licences})
        self._stream.write("\n],\n" + rest.removeprefix("{") + "\n")
        self._stream.close()
