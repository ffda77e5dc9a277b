"""What is written of a predicted image, beside the COCO file of all of them: pictures, masks, GeoJSON."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from segdist.core import masks, storage
from segdist.core.errors import SpecError, did_you_mean
from segdist.core.escaping import FILES
from segdist.core.panels import encode_jpeg, encode_png, overlay, panel
from segdist.core.plugins import ImageHWC
from segdist.core.records import Prediction, Sample

Output = Literal["overlays", "panels", "masks", "class_ids", "geojson", "text"]


@dataclass(frozen=True)
class PredictedImage:
    """One image with what was found in it.

    Attributes:
        number: its place among all images, from 1.
        sample: the image.
        image_HWC: its pixels.
        prediction: what counts as found.
        classes: of the model.
        file: where it lies on this machine, "" in a table.
        image_bytes: encoded.
        truth: what is known to be in it; None where nothing is.
    """

    number: int
    sample: Sample
    image_HWC: ImageHWC
    prediction: Prediction
    classes: Sequence[str]
    file: str
    image_bytes: bytes
    truth: Sample | None = None

    @property
    def name(self) -> str:
        """Without folder and suffix; the number keeps images of one name apart."""
        return f"{FILES.escape(PurePosixPath(self.sample.image_id).stem)}-{self.number:05d}"


def check_outputs(names: Sequence[str]) -> tuple[Output, ...]:
    """The outputs by name.

    Raises:
        SpecError: there is no such output, or a library for it is missing.
    """
    for name in names:
        if name not in _WRITERS:
            raise SpecError(f"There is no output `{name}`. {did_you_mean(name, _WRITERS)}")
    if "geojson" in names:
        from segdist.engine.georeference import check_installed

        check_installed()
    return tuple(name for name in get_args(Output) if name in names)


def write(folder: str, outputs: Sequence[Output], found: PredictedImage) -> None:
    """Write the outputs of one image below a folder, local or in an object store."""
    for name in outputs:
        _WRITERS[name](storage.join(folder, name), found)


def _overlay(folder: str, found: PredictedImage) -> None:
    drawn = overlay(found.image_HWC, found.prediction.instances, found.classes)
    storage.write_atomic(storage.join(folder, f"{found.name}.png"), encode_png(drawn))


def _panel(folder: str, found: PredictedImage) -> None:
    """[image | prediction], or [image | truth | prediction | error]."""
    if found.truth is not None:
        drawn = panel(found.image_HWC, found.truth, found.prediction, classes=found.classes)
    else:
        drawn = np.hstack([found.image_HWC, overlay(found.image_HWC, found.prediction.instances, found.classes)])
    storage.write_atomic(storage.join(folder, f"{found.name}.jpg"), encode_jpeg(drawn))


def _masks(folder: str, found: PredictedImage) -> None:
    """For each class a PNG with 255 where it is and 0 elsewhere; also where it is nowhere."""
    height, width = found.sample.size_hw
    for label in found.classes:
        drawn_HW = np.zeros((height, width), np.uint8)
        for instance in found.prediction.instances:
            if instance.label == label and instance.mask:
                drawn_HW[masks.decode(instance.mask)] = 255
        storage.write_atomic(storage.join(folder, FILES.escape(label), f"{found.name}.png"), _grey_png(drawn_HW))


def _class_ids(folder: str, found: PredictedImage) -> None:
    """A PNG with the number of the class (from 1, as in the COCO file) of each pixel; the surest where two overlap."""
    kind = np.uint8 if len(found.classes) < 2**8 else np.uint16
    drawn_HW = np.zeros(found.sample.size_hw, kind)
    for instance in sorted(found.prediction.instances, key=lambda i: i.score):
        if instance.mask:
            drawn_HW[masks.decode(instance.mask)] = found.classes.index(instance.label) + 1
    storage.write_atomic(storage.join(folder, f"{found.name}.png"), _grey_png(drawn_HW))


def _text(folder: str, found: PredictedImage) -> None:
    """What a model that writes was asked and wrote, a line a question; empty for one that does not."""
    storage.write_atomic(storage.join(folder, f"{found.name}.txt"), found.prediction.text.encode())


def _geojson(folder: str, found: PredictedImage) -> None:
    from segdist.engine.georeference import features, place_of

    place = place_of(found.file, found.image_bytes)
    content = {
        "type": "FeatureCollection",
        "features": features(found.prediction.instances, place, image=found.sample.image_id),
    }
    text = json.dumps(content, separators=(",", ":"))
    storage.write_atomic(storage.join(folder, f"{found.name}.geojson"), text.encode())


def _grey_png(values_HW: NDArray[np.uint8 | np.uint16]) -> bytes:
    done, data = cv2.imencode(".png", values_HW)
    assert done
    return data.tobytes()


_WRITERS: dict[str, Callable[[str, PredictedImage], None]] = {
    "overlays": _overlay,
    "panels": _panel,
    "masks": _masks,
    "class_ids": _class_ids,
    "geojson": _geojson,
    "text": _text,
}
