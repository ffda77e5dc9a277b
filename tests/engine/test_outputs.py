"""What is written of predicted images: no class and no image takes the place of another."""

from pathlib import Path

import numpy as np
from PIL import Image

from segdist.core import masks
from segdist.core.escaping import FILES
from segdist.core.records import Instance, Prediction, Sample
from segdist.engine.outputs import PredictedImage, write

CLASSES = ("<1mm", ">1mm", "a/b", "a_b", "..", "CON", "50%", "x" * 300)
IMAGES = ("a/b.png", "a_b.png", "x.jpg", "x.png", "..", "y" * 300 + ".png", 'odd:"name"?.png')
SIZE_HW = (12, 16)


def found(number: int, image_id: str) -> PredictedImage:
    """Each class has a pixel of its own, and each image a column of its own."""
    instances = []
    for row, label in enumerate(CLASSES):
        rle = masks.from_box((number, row, number + 1, row + 1), size_hw=SIZE_HW)
        instances.append(Instance(label, rle, rle.box_xyxy, 0.9))
    sample, pixels_HWC = Sample(image_id, "", SIZE_HW), np.zeros((*SIZE_HW, 3), np.uint8)
    return PredictedImage(number, sample, pixels_HWC, Prediction(image_id, tuple(instances)), CLASSES, "", b"")


def test_the_masks_of_each_class_and_image_are_a_file_of_their_own(tmp_path: Path) -> None:
    for number, image_id in enumerate(IMAGES, start=1):
        write(str(tmp_path), ("masks", "overlays", "text"), found(number, image_id))
    folders = {FILES.unescape(folder.name): folder for folder in (tmp_path / "masks").iterdir()}
    assert set(CLASSES[:-1]) < set(folders)
    assert len(folders) == len(CLASSES)
    for row, label in enumerate(CLASSES[:-1]):
        files = sorted(folders[label].iterdir(), key=lambda file: file.stem[-5:])
        drawn = [np.argwhere(np.asarray(Image.open(file))).tolist() for file in files]
        assert drawn == [[[row, number]] for number in range(1, len(IMAGES) + 1)]
    for kind in ("overlays", "text"):
        assert len(list((tmp_path / kind).iterdir())) == len(IMAGES)
