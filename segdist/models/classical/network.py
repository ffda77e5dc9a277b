"""Boxes to masks by colour and contrast, box by box."""

from collections.abc import Sequence
from typing import NoReturn

import cv2
import numpy as np

from segdist.core import masks
from segdist.core.errors import SpecError
from segdist.core.masks import Mask
from segdist.core.plugins import Example, ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.labelling.boxes import has_size
from segdist.labelling.estimates import blob, grabcut, line, smaller, stands_out_as_line
from segdist.labelling.thin import thin
from segdist.models.classical import Options
from segdist.nets.segmenter import Segmenter
from segdist.reading.geometry import cut_out

_SURROUNDINGS = 0.25
"""What GrabCut sees around a box, as a share of its sides; it learns the background there."""
_LEAST_SIDE = 4
"""Pixels: in smaller boxes there is nothing to tell apart, and the filled box is the answer."""
_FULL_OF_IT = 0.8
"""Score of a box that is as narrow as the thin structure in it: what such boxes' IoU with people's masks is about."""


def build(options: Options, classes: tuple[str, ...]) -> "Classical":
    """A teacher without weights."""
    return Classical(options, classes)


class Classical(Segmenter):
    """A segmenter that predicts from boxes and refuses to learn."""

    options: Options

    def __init__(self, options: Options, classes: tuple[str, ...]) -> None:
        super().__init__(options, classes)

    def collate(self, examples: Sequence[Example]) -> NoReturn:  # noqa: ARG002
        """Refused: there is nothing to train."""
        raise SpecError(
            "`classical` has no weights, so it cannot be trained. Keep it as a teacher; name another `model.family`."
        )

    def forward(self, batch: object) -> NoReturn:  # noqa: ARG002
        """Refused: there is nothing to train."""
        self.collate([])

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """One instance a box, in order; points are ignored."""
        return [
            tuple(self._one(image, box, label) for box, label in zip(p.boxes_xyxy, p.labels, strict=True))
            for image, p in zip(images, prompts, strict=True)
        ]

    def _one(self, image_HWC: ImageHWC, box: tuple[float, float, float, float], label: str) -> Instance:
        size_hw = image_HWC.shape[0], image_HWC.shape[1]
        if not has_size(box, size_hw):
            return Instance(label, None, box, score=0.0)
        rows, columns = cut_out(box, size_hw)
        method = self.options.method
        if method == "box" or min(rows.stop - rows.start, columns.stop - columns.start) < _LEAST_SIDE:
            score = _FULL_OF_IT if method == "thin" else 0.0
            return Instance(label, masks.from_box(box, size_hw=size_hw), box, score=score)
        if method == "auto":
            method = "thin" if stands_out_as_line(image_HWC[rows, columns]) else "grabcut"
        whole_HW = np.zeros(size_hw, np.bool_)
        if method == "thin":
            found = thin(image_HWC, box)
            whole_HW[rows, columns] = found.mask_HW
            return Instance(label, masks.encode(whole_HW), box, score=found.score)
        if method == "grabcut":
            whole_HW[rows, columns] = _grabcut(image_HWC, box, self.options.iterations)
        else:
            whole_HW[rows, columns] = (line if method == "line" else blob)(image_HWC[rows, columns])
        return Instance(
            label, masks.encode(whole_HW), box, score=_contrast(image_HWC[rows, columns], whole_HW[rows, columns])
        )


def _grabcut(image_HWC: ImageHWC, box: tuple[float, float, float, float], iterations: int) -> Mask:
    """The mask in the box; the surroundings are background for certain."""
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    rows, columns = cut_out(box, size_hw)
    wide_rows, wide_columns = cut_out(box, size_hw, margin=_SURROUNDINGS)
    seen_HWC = np.ascontiguousarray(image_HWC[wide_rows, wide_columns])
    inner = (
        slice(rows.start - wide_rows.start, rows.stop - wide_rows.start),
        slice(columns.start - wide_columns.start, columns.stop - wide_columns.start),
    )
    kinds_HW = np.full(seen_HWC.shape[:2], cv2.GC_BGD, np.uint8)
    kinds_HW[inner] = cv2.GC_PR_FGD
    found_HW = grabcut(seen_HWC, kinds_HW, iterations)
    return blob(image_HWC[rows, columns]) if found_HW is None else found_HW[inner]


def _contrast(image_HWC: ImageHWC, mask_HW: Mask) -> float:
    """Share of the colours' variance in the box that the two sides of the mask explain, 0..1."""
    seen_HW = smaller(mask_HW.astype(np.uint8), by=cv2.INTER_NEAREST).astype(bool)
    if seen_HW.all() or not seen_HW.any():
        return 0.0
    pixels_KC = smaller(image_HWC).reshape(-1, 3).astype(np.float64)
    inside_K = seen_HW.reshape(-1)
    whole = ((pixels_KC - pixels_KC.mean(axis=0)) ** 2).sum()
    rest = sum(((side - side.mean(axis=0)) ** 2).sum() for side in (pixels_KC[inside_K], pixels_KC[~inside_K]))
    return float(1 - rest / whole) if whole else 0.0
