"""YOLO11n-seg from random weights by the public API of Ultralytics (AGPL-3.0; the extra `yolo`), as a peer."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

from benchmarks._photographs import Photographs
from segdist.core import masks
from segdist.core.records import Instance, LabelledImage, Prediction
from segdist.formats.yolo.writer import Writer
from segdist.reading.examples import decode_image

SHAPE = "yolo11n-seg.yaml"


def learn(
    name: str, of: Photographs, train: Sequence[LabelledImage], *, seed: int, seconds: float, image_size: int
) -> Any:
    """Train with its own settings for as many epochs as the seconds hold; what it finds at its own threshold."""
    from ultralytics import YOLO

    with TemporaryDirectory(prefix="segdist-real-") as scratch:
        data = _written(Path(scratch) / name, train, of.classes)
        settings = {
            "data": str(data),
            "imgsz": max(64, image_size),
            "batch": 8,
            "device": "cpu",
            "workers": 0,
            "pretrained": False,
            "seed": seed,
            "project": scratch,
            "val": False,
            "plots": False,
            "verbose": False,
            "amp": False,
        }
        begun = time.process_time()
        YOLO(SHAPE).train(epochs=1, **settings)
        epochs = max(1, round(seconds / (time.process_time() - begun)))
        network = YOLO(SHAPE)
        network.train(epochs=epochs, **settings)

    def found(rows: Sequence[LabelledImage]) -> Iterator[Prediction]:
        for sample, image_bytes in rows:
            image_HWC = decode_image(image_bytes)
            answer = network.predict(
                image_HWC[..., ::-1], imgsz=max(64, image_size), device="cpu", retina_masks=True, verbose=False
            )[0]
            yield Prediction(sample.image_id, tuple(_instances(answer, sample.size_hw, of.classes)), 0.0)

    return found


def _instances(answer: Any, size_hw: tuple[int, int], classes: Sequence[str]) -> Iterator[Instance]:
    """All that it shows, which counts as found."""
    if answer.masks is None:
        return
    for mask_hw, number in zip(answer.masks.data.numpy(), answer.boxes.cls.tolist(), strict=True):
        mask_HW = mask_hw if mask_hw.shape == size_hw else cv2.resize(mask_hw, size_hw[::-1])
        rle = masks.encode(np.asarray(mask_HW) > 0.5)
        if rle.area:
            yield Instance(classes[int(number)], rle, rle.box_xyxy)


def _written(folder: Path, rows: Sequence[LabelledImage], classes: Sequence[str]) -> Path:
    """The photographs in the format that it reads; the first four stand for a validation that is not asked for."""
    folder.mkdir()
    writer = Writer(folder, classes, Writer.Options(), lambda _: None)
    for split, some in (("train", rows), ("val", rows[:4])):
        for number, (sample, image_bytes) in enumerate(some):
            kept = tuple(i for i in sample.instances if i.mask is not None and i.mask.area)
            ending = ".png" if image_bytes.startswith(b"\x89PNG") else ".jpg"
            writer.add(replace(sample, split=split, instances=kept), image_bytes, f"{split}{number}{ending}")
    writer.close()
    # It looks for folders relative to a setting of its own, so it is told where they are.
    description = folder / "data.yaml"
    description.write_text(f"path: {folder}\n{description.read_text(encoding='utf-8')}", encoding="utf-8")
    return description
