"""One COCO JSON file as an index: its images, its classes, and where each image's annotations lie in the file.

Memory is some ten bytes an annotation; the annotations themselves are parsed image by image (`chunk`).
"""

import codecs
import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.records import ReportFinding
from segdist.core.text import NotTextError, counted, short
from segdist.reading.coco.json_lists import SEPARATORS, NotJson, Spans, list_spans
from segdist.reading.codes import finding
from segdist.reading.garbage_collection import gc_disabled
from segdist.reading.text_files import text_of

BATCH = 4096
"""Elements parsed together."""
SAMPLED = 2000
"""Annotations looked at to tell pixels from shares of the image, and corners from sides."""
_LISTS = ("images", "annotations", "categories")
_SMALL = 1 << 27
Key = int | str | None
"""An id as it is compared: 7, 7.0 and "7" are the same."""


class ImageEntry(msgspec.Struct, gc=False):
    """What is kept of the entry of an image; there may be millions.

    Attributes:
        key: its id in the form in which ids are compared.
        file_name: as it is written there.
        height: in pixels, as it is written there: it may be anything.
        width: likewise.
    """

    key: Key
    file_name: str
    height: object
    width: object


class _Head(msgspec.Struct, gc=False):
    """What the index needs of an annotation."""

    id: object = None
    image_id: object = None
    category_id: object = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    area: msgspec.Raw = msgspec.Raw(b"null")


class _PlainHead(msgspec.Struct, gc=False):
    """The same where all ids are whole numbers, as they mostly are."""

    id: int
    image_id: int
    category_id: int
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    area: msgspec.Raw = msgspec.Raw(b"null")


_PLAIN, _HEAD = msgspec.json.Decoder(list[_PlainHead]), msgspec.json.Decoder(list[_Head])


@dataclass
class CocoIndex:
    """What a COCO file holds.

    Attributes:
        uri: of the file.
        path: a local copy, or the file itself.
        images: its usable entries, in order.
        categories: its entries, as they are written in the file.
        licences: names of the licences it states.
        used_categories: the category ids that annotations name, as text.
        has_masks: whether any annotation has a segmentation.
        spans: (N, 2) where each usable annotation lies, sorted by image.
        first: (images + 1) the first of `spans` that belongs to each image.
    """

    uri: str
    path: str
    images: list[ImageEntry]
    categories: list[dict[str, object]]
    licences: tuple[str, ...]
    used_categories: set[str]
    has_masks: bool
    spans: Spans
    first: NDArray[np.int64]
    _copy: object = field(default=None, repr=False)  # a temporary file lives as long as the index

    @property
    def has_annotations(self) -> bool:
        """Whether there is any annotation at all."""
        return bool(self.used_categories) or len(self.spans) > 0

    def spans_of(self, image: int) -> Spans:
        """Where the annotations of one image lie."""
        return self.spans[self.first[image] : self.first[image + 1]]


def key_of(value: object) -> Key:
    """An id in the form in which ids are compared; None where it can be no id."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() else text or None
    return int(value) if isinstance(value, float) and value.is_integer() else None


def open_index(uri: str, report: ReportFinding) -> CocoIndex:
    """Read a COCO file once, from end to end.

    Raises:
        DataError: it is no COCO file, or damaged.
    """
    try:
        path, copy = _local(uri, report)
        spans = list_spans(path)
    except (NotJson, NotTextError) as error:
        raise DataError(f"{uri} must be JSON, but {error}. Export the annotations again.") from None
    for key in _LISTS:
        if key not in spans:
            named = "`images`, `annotations` and `categories`"
            raise DataError(f"{uri} must be a COCO file with lists {named}: no list `{key}`.")
    reader = _Elements(uri, path)
    images = image_entries(uri, reader.read(spans["images"]), report)
    categories = category_entries(uri, reader.read(spans["categories"]), report)
    licences = [x for x in reader.read(spans.get("licenses", spans["images"][:0])) if isinstance(x, dict)]
    heads = _Heads(uri, images, report)
    heads.read(reader, spans["annotations"])
    order = np.argsort(heads.image, kind="stable")
    order = order[heads.image[order] >= 0]
    return CocoIndex(
        uri=uri,
        path=path,
        images=images,
        categories=categories,
        licences=tuple(dict.fromkeys(str(x.get("name") or x.get("url") or "") for x in licences)),
        used_categories=heads.used,
        has_masks=heads.has_masks,
        spans=spans["annotations"][order],
        first=np.searchsorted(heads.image[order], np.arange(len(images) + 1)),
        _copy=copy,
    )


def parse(uri: str, text: bytes) -> list[Any]:
    """The values of a piece of JSON, separated by commas; what the standard allows, and NaN and Infinity.

    Raises:
        DataError: it is no JSON.
    """
    try:
        found: list[Any] = json.loads(b"[" + text.strip(SEPARATORS) + b"]")
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{uri} must be JSON, but: {error} in `{text[:60].decode(errors='replace')}`. Export the annotations again."
        ) from None
    return found


class _Elements:
    """Parses elements of a file, a batch at a time."""

    def __init__(self, uri: str, path: str) -> None:
        self.uri, self._path = uri, path

    def blocks(self, spans: Spans) -> Iterator["_Block"]:
        """Elements that lie one behind the other, in batches."""
        with Path(self._path).open("rb") as file:
            for start in range(0, len(spans), BATCH):
                part = spans[start : start + BATCH]
                begin = int(part[0, 0])
                file.seek(begin)
                yield _Block(file.read(int(part[-1, 1]) - begin), part - begin)

    def read(self, spans: Spans) -> Iterator[Any]:
        """Every element as Python values."""
        for block in self.blocks(spans):
            yield from parse(self.uri, b",".join(block.elements()))


@dataclass(frozen=True)
class _Block:
    """Elements with commas between them, and where each lies."""

    text: bytes
    bounds: Spans

    def __len__(self) -> int:
        return len(self.bounds)

    def elements(self) -> list[bytes]:
        return [self.text[low:high].lstrip(SEPARATORS) for low, high in self.bounds.tolist()]


class _Heads:
    """Which image each annotation belongs to; -1 where it cannot be used, which is reported."""

    def __init__(self, uri: str, images: Sequence[ImageEntry], report: ReportFinding) -> None:
        self._uri, self._images, self._report = uri, images, report
        self._index: dict[Key, int] = {image.key: n for n, image in enumerate(images)}
        self._ids = _IdSet()
        self.used: set[str] = set()
        self.has_masks = False
        self.image = np.zeros(0, np.int32)
        self._odd_ids = self._without_area = 0

    def read(self, reader: _Elements, spans: Spans) -> None:
        """Look at every annotation."""
        self.image = np.full(len(spans), -1, np.int32)
        with gc_disabled():
            for batch, block in enumerate(reader.blocks(spans)):
                plain = self._plain(block)
                found = plain if plain is not None else [self._image_of(h) for h in self._parsed(block.elements())]
                self.image[batch * BATCH : batch * BATCH + len(block)] = found
        if self._odd_ids:
            message = (
                f"{counted(self._odd_ids, 'annotation writes', 'annotations write')} ids as text "
                f"or decimals, which were matched by value"
            )
            self._report(finding("id-type", message, file=self._uri))
        if self._without_area:
            message = (
                f"{counted(self._without_area, 'annotation has', 'annotations have')} no `area`; "
                f"it is counted from masks and boxes"
            )
            self._report(finding("area-missing", message, file=self._uri))

    def _plain(self, block: _Block) -> list[int] | None:
        """The images of a batch with whole numbers for ids, all new and known; None where it is not so."""
        try:
            heads = _PLAIN.decode(b"[" + block.text.strip(SEPARATORS) + b"]")
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
            return None
        found = [self._index.get(head.image_id, -1) for head in heads]
        if len(heads) != len(block) or -1 in found or not self._ids.add_all_new([head.id for head in heads]):
            return None
        self._note(heads, {head.category_id for head in heads})
        return found

    def _parsed(self, texts: list[bytes]) -> list[_Head | None]:
        try:
            heads: list[_Head | None] = list(_HEAD.decode(b"[" + b",".join(texts) + b"]"))
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
            heads = []
        if len(heads) != len(texts):
            heads = [self._head_of_unusual(text) for text in texts]
        self._note([h for h in heads if h], {key_of(h.category_id) for h in heads if h})
        return heads

    def _note(self, heads: Sequence[_Head | _PlainHead], categories: set[object]) -> None:
        self.used |= {str(c) for c in categories}
        self._without_area += sum(bytes(head.area) == b"null" for head in heads)
        if not self.has_masks:
            self.has_masks = any(len(h.segmentation) > 4 and bytes(h.segmentation) != b"[[]]" for h in heads)

    def _head_of_unusual(self, text: bytes) -> _Head | None:
        """One annotation that is not plain: other values beside it, numbers like NaN, or no object at all."""
        *strange, found = parse(self._uri, text) or [None]
        for value in [*strange, *([] if isinstance(found, dict) else [found])]:
            message = f"an annotation must be an object, but is {short(value)}"
            self._report(finding("annotation-malformed", message, file=self._uri))
        if not isinstance(found, dict):
            return None
        raw = msgspec.Raw(b"true!" if found.get("segmentation") not in (None, [], {}, [[]], "") else b"null")
        area = msgspec.Raw(b"null" if found.get("area") is None else b"0")
        return _Head(found.get("id"), found.get("image_id"), found.get("category_id"), raw, area)

    def _image_of(self, head: _Head | None) -> int:
        if head is None:
            return -1
        own, wanted = head.id, head.image_id
        if type(own) is not int:
            own = key_of(own)
        if type(wanted) is not int or type(head.category_id) is not int:
            self._odd_ids += 1
            wanted = key_of(wanted)
        found = self._index.get(wanted, -1)
        name = self._images[found].file_name if found >= 0 else ""
        if own is not None and not self._ids.add_new(own):
            message = f"duplicate annotation id {own}; ids must be unique"
            self._report(finding("annotation-id-duplicate", message, file=self._uri, image=name, annotation=str(own)))
            return -1
        if found < 0:
            message = f"there is no image with id {head.image_id}"
            self._report(finding("image-unknown", message, file=self._uri, annotation=str(head.id)))
        return found


class _IdSet:
    """Ids seen so far; one byte an id where they are small whole numbers, as they mostly are."""

    def __init__(self) -> None:
        self._seen = np.zeros(1 << 16, np.bool_)
        self._others: set[object] = set()

    def add_new(self, value: object) -> bool:
        """Add an id; whether it was new."""
        if type(value) is int and 0 <= value < _SMALL:
            return self.add_all_new([value])
        is_new = value not in self._others
        self._others.add(value)
        return is_new

    def add_all_new(self, values: list[int]) -> bool:
        """Add small ids if all of them are new and different; whether they were."""
        ids = np.array(values)
        if len(ids) == 0:
            return True
        if ids.dtype.kind != "i" or ids.min() < 0 or ids.max() >= _SMALL:
            return False
        if ids.max() >= len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(max(int(ids.max()), len(self._seen)) + 1, np.bool_)])
        if self._seen[ids].any() or len(np.unique(ids)) < len(ids):
            return False
        self._seen[ids] = True
        return True


def image_entries(uri: str, entries: Iterable[Any], report: ReportFinding) -> list[ImageEntry]:
    """The usable image entries of a file."""
    found: dict[Key, ImageEntry] = {}
    names: set[str] = set()
    for image in entries:
        is_object = isinstance(image, dict)
        name = _file_name(image) if is_object else None
        key = key_of(image.get("id")) if is_object else None
        if not isinstance(name, str) or not name.strip() or key is None:
            message = f"an image needs `id` and `file_name`, but is {short(image)}"
            report(finding("image-malformed", message, file=uri, image=str(name or "")))
        elif key in found:
            message = f"image id {key} is also that of {found[key].file_name}"
            report(finding("image-id-duplicate", message, file=uri, image=name))
        elif name in names:
            message = "the same file is listed twice; remove one entry"
            report(finding("image-name-duplicate", message, file=uri, image=name))
        else:
            found[key] = ImageEntry(key, name, image.get("height"), image.get("width"))
        names.add(str(name))
    return list(found.values())


def _file_name(image: Mapping[str, object]) -> object:
    """What an entry calls its file; LVIS gives the address that it was published at alone: `.../train2017/0001.jpg`."""
    name, address = image.get("file_name"), image.get("coco_url")
    return "/".join(address.split("/")[-2:]) if name is None and isinstance(address, str) else name


def category_entries(uri: str, entries: Iterable[object], report: ReportFinding) -> list[dict[str, object]]:
    """The category entries of a file that are objects."""
    found = []
    for entry in entries:
        if isinstance(entry, dict):
            found.append(entry)
        else:
            message = f"a category must be an object with `id` and `name`, but is {short(entry)}"
            report(finding("category-malformed", message, file=uri))
    return found


def _local(uri: str, report: ReportFinding) -> tuple[str, object]:
    """A file that can be read in pieces, in UTF-8: the file itself where it is one."""
    path = uri.removeprefix("file://")
    content = storage.read_bytes(uri) if not storage.is_local(uri) else None
    if content is None:
        with Path(path).open("rb") as file:
            head = file.read(4)
        if not head.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\x00" not in head and _is_utf8(path):
            return path, None
        content = Path(path).read_bytes()
    text = _utf8(uri, content, report)
    copy = _LocalCopy(text)
    return copy.path, copy


class _LocalCopy:
    """A temporary file that is there as long as this object."""

    def __init__(self, text: bytes) -> None:
        number, self.path = tempfile.mkstemp(suffix=".json")
        weakref.finalize(self, Path(self.path).unlink, missing_ok=True)
        with os.fdopen(number, "wb") as file:
            file.write(text)


def _is_utf8(path: str) -> bool:
    """Whether the bytes of a file are UTF-8; read in windows."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 22):
                if not block.isascii() or decoder.getstate()[0]:
                    decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _utf8(uri: str, content: bytes, report: ReportFinding) -> bytes:
    """The text as UTF-8; bytes that are UTF-8 already stay as they are, NUL and all: parsing names what is wrong."""
    try:
        content.decode()
    except UnicodeDecodeError:
        pass
    else:
        if b"\x00" not in content[:4]:
            return content
    return text_of(content, uri, report).encode()
