"""What an annotation tool sent back: its masks, and what of it says nothing about pixels."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.records import Finding, Rle
from segdist.reading.geometry import UnusableAnnotation

_LONGEST_NUMBER = 9
"""Digits of the number of an object."""


@dataclass(frozen=True)
class Drawn:
    """One mask that came back from an annotation tool.

    Attributes:
        file_name: of its image in the queue.
        label: the class name.
        mask: at the image's own size.
        number: of the object in the queue; 0 where the tool did not keep it.
    """

    file_name: str
    label: str
    mask: Rle
    number: int = 0


@dataclass(frozen=True)
class UnreadShape:
    """A shape that says nothing about pixels, such as a box; the object that it stands for is still there.

    Attributes:
        kind: what the tool calls it.
        file_name: of its image in the queue.
        label: the class name; "" where it has none.
        number: as in `Drawn`.
    """

    kind: str
    file_name: str
    label: str = ""
    number: int = 0


class Returned:
    """The content of a file, checked against the queue: its images have the queue's names and sizes.

    Attributes:
        images: of the queue, by file name, that the file is about.
        drawn: its masks.
        unread: shapes in these images that are no masks.
        others: what else was not read, and how often.
    """

    def __init__(self, file: Path, sizes_hw: Mapping[str, tuple[int, int]]) -> None:
        self._file, self._sizes_hw = file, sizes_hw
        self.images: set[str] = set()
        self.drawn: list[Drawn] = []
        self.unread: list[UnreadShape] = []
        self.others: Counter[str] = Counter()

    def image(
        self, written: str, stated_hw: tuple[object, object] = (None, None)
    ) -> tuple[str, tuple[int, int]] | None:
        """The queue's own name and size of an image that came back; None where it is not in the queue.

        Raises:
            ValueError: the file states another size; masks of it would fit no image.
        """
        name = str(written).replace("\\", "/").rpartition("/")[2]
        if name not in self._sizes_hw:  # Label Studio puts a prefix before uploads
            name = name.partition("-")[2]
        if name not in self._sizes_hw:
            self.others["image that is not in the queue"] += 1
            return None
        height, width = self._sizes_hw[name]
        for side, stated, own in zip(("height", "width"), stated_hw, (height, width), strict=True):
            if stated is not None and _number(stated) != own:
                raise ValueError(f"the image's {side} must be the queue's {own}, but is {stated!r:.40}")
        self.images.add(name)
        return name, (height, width)

    def note(self, found: Finding) -> None:
        """What had to be repaired before the file could be read."""
        self.others[found.message] += 1

    def add(self, file_name: str, label: object, rle: Rle, number: object) -> None:
        """A mask of an image of the queue."""
        self.drawn.append(Drawn(file_name, str(label), rle, object_number(number)))

    def skip_shape(self, kind: str, file_name: str, label: object, number: object) -> None:
        """A shape of an image of the queue that is no mask."""
        self.unread.append(UnreadShape(kind, file_name, str(label), object_number(number)))

    @property
    def not_understood(self) -> list[str]:
        """What was not read, in words: kinds and counts."""
        kinds = self.others + Counter(one.kind for one in self.unread)
        return [f"{count} x {kind:.60}" for kind, count in kinds.most_common()]

    @contextmanager
    def naming(self, what: str) -> Iterator[None]:
        """Turn what is wrong with a part of the file into an error that names both.

        Raises:
            DataError: the part lacks something, or has it in a form that cannot be meant.
        """
        try:
            yield
        except KeyError as error:
            raise DataError(f"{self._file}: {what:.100} lacks {error}. Export the annotations again.") from None
        except (UnusableAnnotation, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise DataError(f"{self._file}: {what:.100}: {error}. Fix it, or export the annotations again.") from None


def drawn_mask(polygons: Sequence[Sequence[float]], *, size_hw: tuple[int, int]) -> Rle:
    """The mask of polygons that came back; annotation tools draw inside the image, or a little beside it.

    Raises:
        ValueError: a point is farther outside than the image is large: it would be cut to a strip that nobody drew.
    """
    height, width = size_hw
    mask = masks.from_polygons(polygons, size_hw=size_hw)
    for polygon in polygons:
        for values, side in ((polygon[::2], width), (polygon[1::2], height)):
            if wrong := [value for value in values if not -side <= value <= 2 * side]:
                raise ValueError(f"a point must lie in the image of {width} x {height} pixels, but is at {wrong[0]:g}")
    return mask


def object_number(written: object) -> int:
    """The number of an object in the queue as a tool kept it; 0 where it is none."""
    text = str(written).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else 0


def _number(stated: Any) -> float:
    try:
        return float(stated)
    except (TypeError, ValueError, OverflowError):
        return -1.0
