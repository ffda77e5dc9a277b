"""Whether the numbers of a COCO file mean what COCO says: pixels, and boxes as (x, y, width, height).

Some exports hold shares of the image (0..1) or corners (x1, y1, x2, y2). One annotation cannot tell; many can.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from segdist.core.records import ReportFinding
from segdist.reading.coco.index import SAMPLED, CocoIndex, parse
from segdist.reading.codes import finding

_FEWEST = 3
"""Fewer boxes prove nothing."""


def check_frames(index: CocoIndex, report: ReportFinding) -> None:
    """Report an error for the file when most of its boxes are shares of the image, or corners."""
    frames = BoxFrames(index.uri)
    for box, size_hw in _boxes(index):
        frames.add(box, size_hw)
    frames.check(report)


class BoxFrames:
    """Boxes of one file as (x, y, width, height), looked at together."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: list[tuple[list[float], float, float]] = []

    def add(self, box: Any, size_hw: Any) -> None:
        """Take note of the box of an annotation and its image's size, as they are written."""
        numbers, size = _finite(box), _finite(list(size_hw))
        if len(numbers) == 4 and size and len(self._found) < SAMPLED:
            self._found.append((numbers, size[0], size[1]))

    def check(self, report: ReportFinding) -> None:
        """Report an error for the file when most boxes are shares of the image, or corners."""
        found = self._found
        if len(found) < _FEWEST:
            return
        shares = [box for box, height, width in found if max(map(abs, box)) <= 1 < min(height, width)]
        if len(shares) > len(found) / 2:
            message = f"most boxes lie in 0..1, as {shares[0]}: multiply by the width and height of their images"
            report(finding("coordinates-normalised", message, file=self._file))
            return
        corners = [b for b, h, w in found if b[2] > b[0] and b[3] > b[1] and b[2] <= w + 1 and b[3] <= h + 1]
        outside = [b for b, h, w in found if b[0] + b[2] > w + 1 or b[1] + b[3] > h + 1]
        if len(corners) == len(found) and len(outside) > len(found) / 2:
            message = f"most boxes reach outside their images, and all fit as corners, as {outside[0]}: "
            report(finding("box-corners", message + "write (x, y, width, height)", file=self._file))


def _boxes(index: CocoIndex) -> Iterator[tuple[Any, list[Any]]]:
    """Boxes of annotations spread over the file, with the height and width of their images."""
    chosen = np.unique(np.linspace(0, len(index.spans), SAMPLED, endpoint=False).astype(np.int64))
    if len(index.spans) == 0:
        return
    owners = np.searchsorted(index.first, chosen, side="right") - 1
    with open(index.path, "rb") as file:  # noqa: PTH123 - many small reads
        for (low, high), owner in zip(index.spans[chosen].tolist(), owners.tolist(), strict=True):
            file.seek(low)
            annotation = parse(index.uri, file.read(high - low))[-1]
            image = index.images[owner]
            yield annotation.get("bbox"), [image.height, image.width]


def _finite(values: object) -> list[float]:
    """The numbers of a list; nothing where one of them is none."""
    if not isinstance(values, list) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return []
    try:
        found = [float(v) for v in values]
    except OverflowError:  # a whole number of hundreds of digits
        return []
    return found if all(map(math.isfinite, found)) else []
