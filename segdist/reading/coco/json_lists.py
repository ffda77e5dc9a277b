"""Where the elements of the lists in a large JSON object lie, found without parsing them.

A COCO file of a million annotations is 300 MB of text and gigabytes of Python objects. Here it is looked at in windows,
so that memory stays flat; each element is parsed when it is needed, by whichever process needs it. (An incremental
parser such as ijson makes Python objects of every number on the way: 15 s instead of 1 s for that file.)
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WINDOW = 1 << 22
"""Bytes looked at together."""
_MARKS = np.zeros(256, np.bool_)
_MARKS[list(b'"\\{}[]')] = True
_QUOTE, _BACKSLASH = b'"\\'
SEPARATORS = b", \t\r\n"
"""What may stand before an element in its span."""
_BOM = b"\xef\xbb\xbf"

Spans = NDArray[np.int64]
"""(N, 2) first byte, and the byte after the last, of each element; a comma and blanks may stand before it.

Elements are objects or lists; anything else belongs to the span of the element behind it, or to a last one of its own.
"""


class NotJson(ValueError):  # noqa: N818 - says what the file is
    """The text is no JSON object: brackets do not match, or it ends in the middle."""


def list_spans(path: Path | str) -> dict[str, Spans]:
    """The elements of every list that is a value of the outermost object, by key.

    Brackets and quotes are matched; whether each element is JSON shows when it is parsed. A file whose outermost value
    is none has no lists.

    Raises:
        NotJson: the file is empty, or brackets do not match.
    """
    with Path(path).open("rb") as file:
        if not file.read(1):
            raise NotJson("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Scan(content).lists()


@dataclass(frozen=True)
class Outline:
    """What a JSON text holds at its top, as far as it goes.

    Attributes:
        is_list: whether the outermost value is a list.
        keys: the lists and objects that are values of the outermost object, by key: `[` or `{`; in order.
        first: the first object below: an element of the outermost list, or a value of the outermost object.
        is_whole: whether brackets match up to the end.
    """

    is_list: bool
    keys: dict[str, str]
    first: bytes
    is_whole: bool


def outline(content: "bytes | mmap.mmap") -> Outline:
    """Look at a whole JSON text without parsing it."""
    scan = _Top(content)
    try:
        is_whole = scan.is_object_or_list() and scan.read_through()
    except NotJson:
        is_whole = False
    first = bytes(content[slice(*scan.first)]) if scan.first else b""
    return Outline(scan.is_list, scan.keys, first, is_whole)


class _Scan:
    """One pass over a file."""

    def __init__(self, content: "bytes | mmap.mmap") -> None:
        self._content = content
        self._depth = 0
        self._in_string = False
        self._key = ""
        self._start = -1  # of the element that is being read
        self._found: dict[str, list[Spans]] = {}

    def lists(self) -> dict[str, Spans]:
        content = self._content
        begin = len(_BOM) if content[:3] == _BOM else 0
        if content[begin : begin + 200].lstrip()[:1] != b"{":
            return {}
        for marks in self._windows(begin):
            self._read(marks)
        if self._depth or self._in_string:
            raise NotJson("it ends in the middle")
        return {key: np.concatenate(parts) for key, parts in self._found.items()}

    def _windows(self, begin: int) -> Iterator[NDArray[np.int64]]:
        """Positions and kinds of brackets outside strings, window by window; never cut behind a backslash."""
        content, size = self._content, len(self._content)
        while begin < size:
            end = min(begin + WINDOW, size)
            while end < size and content[end - 1] == _BACKSLASH:
                end += 1
            text = np.frombuffer(content, np.uint8, end - begin, begin)
            marks = np.flatnonzero(_MARKS[text])
            kinds = text[marks]
            del text  # a view keeps the file from being closed
            outside = self._outside(marks, kinds)
            yield np.stack([marks[outside] + begin, kinds[outside]])
            if isinstance(content, mmap.mmap) and hasattr(
                content, "madvise"
            ):  # read pages are not needed again: they would count as this process's
                page = begin // mmap.PAGESIZE * mmap.PAGESIZE
                content.madvise(mmap.MADV_DONTNEED, page, end // mmap.PAGESIZE * mmap.PAGESIZE - page or mmap.PAGESIZE)
            begin = end

    def _outside(self, marks: NDArray[np.int64], kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which marks are brackets outside strings."""
        quotes = kinds == _QUOTE
        slashes = np.flatnonzero(kinds == _BACKSLASH)
        if len(slashes):
            quotes[self._escaped(marks, slashes)] = False
        inside = np.logical_xor.accumulate(quotes) ^ self._in_string if len(quotes) else quotes
        self._in_string = bool(inside[-1]) if len(inside) else self._in_string
        return ~inside & ~quotes & (kinds != _BACKSLASH) & (kinds != _QUOTE)

    def _escaped(self, marks: NDArray[np.int64], slashes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the marks that a backslash escapes: those behind an odd number of backslashes."""
        starts = np.flatnonzero(np.diff(marks[slashes], prepend=-2) != 1)
        lengths = np.diff(starts, append=len(slashes))
        last = slashes[starts + lengths - 1]
        odd = last[lengths % 2 == 1]
        odd = odd[odd + 1 < len(marks)]
        return odd[marks[odd + 1] == marks[odd] + 1] + 1

    def _read(self, marks: NDArray[np.int64]) -> None:
        """Follow the brackets of one window: what begins and ends directly below a list of the outermost object."""
        positions, kinds = marks
        opens = (kinds | 0x20) == ord("{")
        depths = np.cumsum(np.where(opens, 1, -1)) + self._depth
        if len(depths) == 0:
            return
        if depths.min() < 0:
            raise NotJson("a closing bracket has no opening one")
        borders = np.flatnonzero(np.where(opens, depths == 2, depths == 1))
        ends = positions[(depths == 2) & ~opens] + 1
        before = np.searchsorted(ends, positions[borders])
        for border, low, high in zip([-1, *borders], [0, *before], [*before, len(ends)], strict=True):
            if border >= 0:
                self._border(int(positions[border]), chr(kinds[border]))
            self._take(ends[low:high])
        self._depth = int(depths[-1])

    def _take(self, ends: NDArray[np.int64]) -> None:
        if len(ends) and self._start >= 0:
            self._found[self._key].append(np.stack([np.r_[self._start, ends[:-1]], ends], axis=1))
            self._start = int(ends[-1])

    def _border(self, position: int, kind: str) -> None:
        """What begins or ends here directly below the outermost value."""
        if kind == "[":
            self._key, self._start = self._key_before(position), position + 1
            self._found.setdefault(self._key, [np.zeros((0, 2), np.int64)])
        elif kind == "]" and self._start >= 0:
            if self._content[self._start : position].strip(SEPARATORS):
                self._found[self._key].append(np.array([[self._start, position]], np.int64))
            self._start = -1
        else:
            self._start = -1  # an object below the outermost one

    def _key_before(self, position: int) -> str:
        """The key whose value begins here."""
        before = self._content[max(position - 200, 0) : position].rstrip().removesuffix(b":").rstrip()
        return before.removesuffix(b'"').rpartition(b'"')[2].decode("utf-8", "replace")


class _Top(_Scan):
    """One pass over a file that takes down what lies directly below the outermost value, and no more."""

    def __init__(self, content: "bytes | mmap.mmap") -> None:
        super().__init__(content)
        self.keys: dict[str, str] = {}
        self.first: tuple[int, int] | None = None
        self._begin = len(_BOM) if content[:3] == _BOM else 0
        self._opened = -1
        head = content[self._begin : self._begin + 200].lstrip()[:1]
        self.is_list, self._is_object = head == b"[", head == b"{"

    def is_object_or_list(self) -> bool:
        return self.is_list or self._is_object

    def read_through(self) -> bool:
        for marks in self._windows(self._begin):
            self._read(marks)
        return not self._depth and not self._in_string

    def _border(self, position: int, kind: str) -> None:
        if kind in "[{" and self._is_object:
            self.keys.setdefault(self._key_before(position), kind)
        if kind == "{" and not self.first and self._opened < 0:
            self._opened = position
        elif kind == "}" and not self.first and self._opened >= 0:
            self.first = (self._opened, position + 1)

    def _take(self, ends: NDArray[np.int64]) -> None:
        """Elements of lists are not looked at."""
