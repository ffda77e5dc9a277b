"""What PaliGemma answers: objects as text, written and read by one exact grammar.

    answer = "" | object { " ; " object }
    object = loc loc loc loc [ seg x 16 ] " " label
    loc    = "<loc0000>" .. "<loc1023>"        seg = "<seg000>" .. "<seg127>"

The reader never guesses: an object that is cut off or malformed is counted as a failure with its reason, and the
objects around it are read.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from segdist.core.errors import DataError
from segdist.nets.paligemma.locations import Bins, are_valid

Codes = tuple[int, ...]
"""Sixteen codes of a mask, row by row over a grid of 4 x 4, each in 0..127."""
NUM_CODES = 16
CODEBOOK_SIZE = 128
SEPARATOR = " ; "
_OBJECT = re.compile(r"((?:<loc\d{4}>){4})((?:<seg\d{3}>){16})? (\S(?:.*\S)?)")
_TOKEN = re.compile(r"<(?:loc|seg)(\d+)>")
_FORBIDDEN = re.compile(r"[;<>\n\r\t]")


class Failure(StrEnum):
    """Why a piece of an answer could not be read."""

    MALFORMED = "malformed"
    """It is no object: tokens are missing, cut off, out of order or out of range."""
    INVALID_BOX = "invalid_box"
    """y2 <= y1 or x2 <= x1."""
    UNKNOWN_LABEL = "unknown_label"
    """The label is none of the classes."""


@dataclass(frozen=True)
class TokenObject:
    """One object of an answer.

    Attributes:
        label: the class name.
        bins: its location tokens.
        codes: its sixteen mask tokens; None where there is only a box.
    """

    label: str
    bins: Bins
    codes: Codes | None = None

    def __post_init__(self) -> None:
        if not are_valid(self.bins):
            raise ValueError(
                f"`0 <= y1 < y2 <= 1023` and the same for x must hold, but got (y1, x1, y2, x2)={self.bins}"
            )
        if self.codes is not None and not _are_codes(self.codes):
            raise ValueError(f"a mask needs {NUM_CODES} codes in 0..{CODEBOOK_SIZE - 1}, but got {self.codes}")

    def __str__(self) -> str:
        """As it is written in an answer."""
        locations = "".join(f"<loc{b:04d}>" for b in self.bins)
        return f"{locations}{''.join(f'<seg{c:03d}>' for c in self.codes or ())} {self.label}"


@dataclass(frozen=True)
class UnreadPiece:
    """A piece of an answer that is no object, and why."""

    text: str
    failure: Failure


@dataclass(frozen=True)
class Answer:
    """What could be read of an answer, and what could not."""

    objects: tuple[TokenObject, ...] = ()
    unread: tuple[UnreadPiece, ...] = ()

    def __str__(self) -> str:
        """The text; `parse` gives the same objects back."""
        return SEPARATOR.join(map(str, self.objects))


def write(objects: Iterable[TokenObject]) -> str:
    """The text of objects, in the deterministic order that every answer is written in: `in_order`."""
    return str(Answer(tuple(in_order(objects))))


def in_order(objects: Iterable[TokenObject]) -> list[TokenObject]:
    """From top to bottom, then left to right, by the corner of the box; then by the rest, so that no tie is left."""
    return sorted(objects, key=lambda o: (o.bins, o.label, o.codes or ()))


def parse(text: str, *, labels: Collection[str] | None = None) -> Answer:
    """Read an answer.

    Args:
        text: what the model wrote, without special tokens; blanks around it do not count.
        labels: the class names that may occur; any by default.
    """
    objects: list[TokenObject] = []
    unread: list[UnreadPiece] = []
    text = text.strip()
    for piece in text.split(SEPARATOR) if text else ():
        found = _read(piece, labels)
        if isinstance(found, TokenObject):
            objects.append(found)
        else:
            unread.append(UnreadPiece(piece, found))
    return Answer(tuple(objects), tuple(unread))


def check_label(label: str) -> str:
    """A class name, if it can be part of an answer.

    Raises:
        DataError: it is empty, or holds what the grammar needs for itself.
    """
    if not label.strip() or label != label.strip() or "  " in label or _FORBIDDEN.search(label):
        raise DataError(
            "A class name in a text answer must not be empty, begin or end with a blank, or hold `;`, `<`, `>`, "
            f"line breaks or double blanks, but got {label!r}. Rename the class."
        )
    return label


def _read(piece: str, labels: Collection[str] | None) -> TokenObject | Failure:
    match = _OBJECT.fullmatch(piece)
    if match is None:
        return Failure.MALFORMED
    locations, segments, label = match.groups()
    bins = tuple(map(int, _TOKEN.findall(locations)))
    codes = tuple(map(int, _TOKEN.findall(segments))) if segments else None
    if max(bins) > 1023 or (codes is not None and not _are_codes(codes)) or _FORBIDDEN.search(label):
        return Failure.MALFORMED
    y1, x1, y2, x2 = bins
    if not are_valid((y1, x1, y2, x2)):
        return Failure.INVALID_BOX
    if labels is not None and label not in labels:
        return Failure.UNKNOWN_LABEL
    return TokenObject(label, (y1, x1, y2, x2), codes)


def _are_codes(codes: Sequence[int]) -> bool:
    return len(codes) == NUM_CODES and all(0 <= c < CODEBOOK_SIZE for c in codes)
