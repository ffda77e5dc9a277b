"""A small export in Roboflow's layout, drawn by code, that a case may break before it is written."""

import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
ANNOTATIONS = "_annotations.coco.json"


def picture(seed: int, kind: str = "JPEG", mode: str = "RGB", size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    """An encoded image of coarse noise: no two of them look the same."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((size_hw[1], size_hw[0]), Image.Resampling.NEAREST).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, quality=90) if kind == "JPEG" else image.save(out, kind)
    return out.getvalue()


def square(x: float, y: float, w: float, h: float) -> list[float]:
    """A rectangle as a polygon."""
    return [x, y, x + w, y, x + w, y + h, x, y + h]


class Export:
    """Contents of the JSON files by folder, and the bytes of the images by path; change them, then write."""

    def __init__(self) -> None:
        self.splits: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        number = 0
        for folder, count in (("train", 3), ("valid", 1), ("test", 1)):
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for place in range(count):
                name = f"img{number}_jpg.rf.{number:032x}.jpg"
                self.files[f"{folder}/{name}"] = picture(number)
                images.append({"id": place, "file_name": name, "height": HEIGHT, "width": WIDTH})
                for box in ([5, 10 + number, 40, 6], [30, 5, 4, 38]):
                    annotations.append(
                        {
                            "id": len(annotations),
                            "image_id": place,
                            "category_id": 1,
                            "bbox": box,
                            "area": box[2] * box[3],
                            "segmentation": [square(*map(float, box))],
                            "iscrowd": 0,
                        }
                    )
                number += 1
            categories = [
                {"id": 0, "name": "cracks-3ii36", "supercategory": "none"},
                {"id": 1, "name": "crack", "supercategory": "cracks-3ii36"},
            ]
            self.splits[folder] = {"images": images, "annotations": annotations, "categories": categories}

    @property
    def train(self) -> dict[str, Any]:
        """The training split."""
        return self.splits["train"]

    @property
    def first(self) -> dict[str, Any]:
        """The first annotation: id 0, on the first image."""
        found: dict[str, Any] = self.train["annotations"][0]
        return found

    def path(self, number: int = 0, folder: str = "train") -> str:
        """Where an image lies."""
        return f"{folder}/{self.splits[folder]['images'][number]['file_name']}"

    def rename(self, new: str, number: int = 0, *, listed: str = "") -> None:
        """Give a training image another name on disk, and in the JSON file (or `listed` there)."""
        content = self.files.pop(self.path(number))
        self.files[f"train/{new}"] = content
        self.train["images"][number]["file_name"] = listed or new

    def again(self, number: int = 0, **fields: Any) -> None:
        """Add a copy of a training annotation with other fields."""
        copied = deepcopy(self.train["annotations"][number])
        self.train["annotations"].append({**copied, "id": 100 + len(self.train["annotations"]), **fields})

    def write(self, folder: Path) -> Path:
        """Write everything; NaN and Infinity as Python's own JSON writes them."""
        for split, content in self.splits.items():
            self.files.setdefault(f"{split}/{ANNOTATIONS}", json.dumps(content).encode())
        for name, encoded in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encoded)
        return folder
