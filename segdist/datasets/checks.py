"""The encoded image of a sample: is it there, whole, and of the size that the annotations were made for?"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.plugins import ImageHWC
from segdist.core.records import Finding, Instance, Sample, Severity
from segdist.reading import images
from segdist.reading.codes import finding

_TURNS: dict[int, Callable[[masks.Mask], masks.Mask]] = {
    5: lambda m: m.T,
    6: lambda m: np.rot90(m, -1),
    7: lambda m: np.rot90(m, 2).T,
    8: np.rot90,
}
"""How stored pixels become upright, for the EXIF orientations that swap height and width."""
_AMBIGUOUS = "square, with an EXIF orientation: taken as annotated upright; check that its masks fit"


@dataclass(frozen=True)
class Checked:
    """What came of an image.

    Attributes:
        sample: in the frame of the upright image; None where the image cannot be used.
        findings: what there is to say.
        image_HWC: its pixels; None where it cannot be decoded.
    """

    sample: Sample | None
    findings: tuple[Finding, ...]
    image_HWC: ImageHWC | None


def check_image(sample: Sample, image_bytes: bytes) -> tuple[Sample | None, list[Finding]]:
    """The sample in the frame of its upright image, or None where the image cannot be used, and what there is to say.

    Annotations made on the stored pixels of a photo that its EXIF orientation turns are turned with it.
    """
    checked = open_image(sample, image_bytes)
    return checked.sample, list(checked.findings)


def open_image(sample: Sample, image_bytes: bytes) -> Checked:
    """The same, with the pixels."""
    if not image_bytes:
        message = "the file is empty; replace it, or remove it from the annotations"
        return Checked(None, (_finding("image-unreadable", Severity.ERROR, message, sample),), None)
    try:
        header = images.header_of(image_bytes, name=sample.image_id)
        picture = images.decode(image_bytes, name=sample.image_id)
    except DataError as error:
        return Checked(None, (_finding("image-unreadable", Severity.ERROR, str(error), sample),), None)
    image_HWC = picture.image_HWC
    fitted, findings = _fitted(sample, header.orientation, (image_HWC.shape[0], image_HWC.shape[1]))
    notes = list(picture.notes)
    if header.pages > 1:
        notes.append(("image-animated", f"it has {header.pages} frames or pages; the first is used"))
    findings += [_finding(code, Severity.WARNING, message, sample) for code, message in notes]
    return Checked(fitted, tuple(findings), image_HWC)


def _fitted(sample: Sample, orientation: int, size_hw: tuple[int, int]) -> tuple[Sample | None, list[Finding]]:
    """The sample in the frame of an upright image of this size."""
    height, width = size_hw
    turn = _TURNS.get(orientation)
    if sample.size_hw == (height, width):
        ambiguous = turn is not None and height == width
        return sample, [_finding("exif-ambiguous", Severity.WARNING, _AMBIGUOUS, sample)] if ambiguous else []
    if turn and sample.size_hw == (width, height):
        instances = tuple(_turned(i, orientation, sample.size_hw) for i in sample.instances)
        turned = replace(sample, size_hw=(height, width), instances=instances)
        message = "annotated on the stored pixels; turned upright as its EXIF orientation says"
        return turned, [_finding("exif-turned", Severity.REPAIRED, message, sample)]
    message = (
        f"the annotations are for {sample.size_hw[1]} x {sample.size_hw[0]} pixels, "
        f"but the image has {width} x {height}; correct `width` and `height`, or export again"
    )
    return None, [_finding("image-size-differs", Severity.ERROR, message, sample)]


def _turned(instance: Instance, orientation: int, stored_hw: tuple[int, int]) -> Instance:
    x1, y1, x2, y2 = instance.box_xyxy
    height, width = stored_hw
    across = (height - y2, height - y1) if orientation in (6, 7) else (y1, y2)
    down = (width - x2, width - x1) if orientation in (7, 8) else (x1, x2)
    mask = masks.encode(_TURNS[orientation](masks.decode(instance.mask))) if instance.mask else None
    return replace(instance, mask=mask, box_xyxy=(across[0], down[0], across[1], down[1]))


def _finding(code: str, severity: Severity, message: str, sample: Sample) -> Finding:
    return finding(code, message, file=sample.image_uri, image=sample.image_id, severity=severity)
