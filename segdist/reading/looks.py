"""What files beside images look like: annotations of a format that is read, of a tool that is known, or of none.

Every file is looked at whole, by what it holds: JSON by its keys wherever they stand, XML by its root, tables by their
columns, text by its numbers. What lies beside an image under its name is taken for an annotation of it in any case.
"""

import csv
import json
import mmap
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segdist.core import registry, storage
from segdist.core.errors import DataError, StorageError
from segdist.core.records import Finding, ReportFinding, Severity
from segdist.core.text import NotTextError, guess_text, lines
from segdist.reading.coco.export import ANNOTATIONS, CONVERSION
from segdist.reading.coco.json_lists import Outline, outline
from segdist.reading.codes import finding
from segdist.reading.examples import decode_image
from segdist.reading.listing import Listing, label_name

_MAPPED = 1 << 24
"""Bytes from which on a local file is looked at through a window instead of being read."""
_ROOT = re.compile(r"<([A-Za-z_][\w.:\-]*)")
_PROLOGUE = re.compile(r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(\[.*?\])?[^>]*>", re.DOTALL)
_OWN = (CONVERSION, "masks.json", "queue.json", "dataset_info.json", "state.json", "manifest.json")
"""JSON beside data that says something about all of them, and draws nothing."""
_TFRECORD = re.compile(r"\.(tfrecords?|record)(-\d+-of-\d+)?$", re.IGNORECASE)
"""A file of TensorFlow, whole or one of several."""
_IS_PACKED = "a packed file"
_PACKED = re.compile(r"(json|xml|csv|tsv|txt|jsonl|geojson|png)s?\.(gz|bz2|xz|zst)$", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(zip|7z|rar|tar|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_BY_SUFFIX = {
    ".geojson": "GeoJSON",
    ".kml": "KML",
    ".kmz": "KML",
    ".gml": "GML",
    ".gpkg": "GeoPackage",
    ".mat": "MATLAB",
    ".npy": "NumPy",
    ".npz": "NumPy",
    ".pkl": "pickle",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".shp": "Shapefile",
    ".ndjson": "JSON lines",
    ".parquet": "a Parquet table",
    ".arrow": "an Arrow table",
}
_OF_OBJECT: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("labelme", {"shapes": "["}),
    ("coco", {"images": "[", "annotations": "["}),
    ("coco", {"images": "[", "categories": "["}),
    ("coco", {"annotations": "[", "categories": "["}),
    ("via", {"_via_img_metadata": "{"}),
    ("VIA 3", {"file": "{", "view": "{", "metadata": "{"}),
    ("ai2thor", {"colors": "["}),
    ("ai2thor", {"object_id_to_color": "{"}),
    ("ai2thor", {"color_to_object_id": "{"}),
    ("GeoJSON", {"features": "["}),
    ("V7 Darwin", {"item": "{", "annotations": "["}),
    ("Supervisely", {"size": "{", "objects": "["}),
    ("Datumaro", {"items": "[", "categories": "{"}),
    ("SuperAnnotate", {"metadata": "{", "instances": "["}),
    ("VoTT", {"asset": "{", "regions": "["}),
)
"""Formats by lists and objects at the top of a JSON file; the first that fits."""
_OF_ELEMENT: tuple[tuple[str, Collection[str]], ...] = (
    ("label_studio", {"data", "annotations"}),
    ("label_studio", {"data", "completions"}),
    ("label_studio", {"data", "predictions"}),
    ("createml", {"image", "annotations"}),
    ("createml", {"imagefilename", "annotation"}),
    ("labelme", {"shapes"}),
    ("BDD100K", {"name", "labels"}),
    ("Labelbox", {"Labeled Data"}),
    ("Labelbox", {"data_row", "projects"}),
    ("Label Studio JSON-MIN", {"annotation_id"}),
    ("COCO results", {"image_id", "bbox"}),
    ("COCO results", {"image_id", "segmentation"}),
)
"""Formats by the keys of the first element of a list."""
_ANNOTATION_KEYS = re.compile(
    r"^(annotations?|labels?|shapes|regions|objects|instances|segmentations?|masks?|bboxe?s?|box(es)?|polygons?|"
    r"detections|predictions|keypoints|features|frames|items|points|segments(_info)?)$",
    re.IGNORECASE,
)
"""Keys under which annotations of tools that are not known stand."""
_BOX_COLUMNS = re.compile(
    r"x_?min|xtl|x1|left|bbox|box|encodedpixels|rle|mask|segmentation|polygon|points", re.IGNORECASE
)
_MASK = re.compile(r"mask|label|annot|segm|ground.?truth|(^|[/_.\-])(gt|seg)($|[/_.\-])", re.IGNORECASE)
"""What folders and endings of mask images are called."""
_HINTS = {
    "png_masks": " --option kind=binary --option 'classes={1: NAME}' (`images`, `masks` and `mask_suffix` say where)"
}
"""What a format must be given beside its name."""
_SHORTEST = 4
"""Characters that a name without a suffix must have to be distinguished from a number in a table."""
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*+)(?:"|\Z)(\s*+:)?+', re.DOTALL)
"""A string of JSON, and whether it is a key; whatever begins like one is one, so that no text takes long."""
_MORE_THAN_LISTS = re.compile(rb"[^\s\[\]{},:]|\{[^{]*+\{", re.DOTALL)
"""JSON without its strings that holds numbers, or objects in objects or lists."""
_MOST_COLOURS = 64
_SAMPLED = 3
"""Pairs of pictures of one kind that are decoded to tell masks from photos."""


@lru_cache(maxsize=2)
def looks_of(files: Listing) -> "Looks":
    """What the files of a source look like; the formats that are asked one after the other share it."""
    return Looks(files)


class Looks:
    """What the files of a source look like; each is looked at once."""

    def __init__(self, files: Listing) -> None:
        self._files = files
        self._found: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """A registered format, or in words what it looks like; "" where it looks like no annotation."""
        if name not in self._found:
            self._found[name] = self._look(name)
        return self._found[name]

    def like(self, kind: str, *suffixes: str) -> list[str]:
        """The files with these suffixes that look like a format."""
        return [name for name in self._files.with_suffix(*suffixes) if self[name] == kind]

    def annotations(self, besides: Collection[str]) -> Iterator[tuple[str, str]]:
        """Every file that looks like an annotation, and what it looks like; some need not be looked at."""
        passed = {*self._files.images, *besides}
        for name in self._files:
            if name not in passed and self[name]:
                yield name, self[name]
        for name in self._masks:
            if name not in besides:
                yield name, "png_masks"

    def is_of_image(self, name: str) -> bool:
        """Whether a file has the name of an image, in whatever folder: `a.json` or `a.jpg.json` for `a.jpg`."""
        own = PurePosixPath(name)
        return own.stem.lower() in self._stems or own.stem.lower() in self._names

    @cached_property
    def _names(self) -> set[str]:
        return {PurePosixPath(name).name.lower() for name in self._files.images}

    @cached_property
    def _stems(self) -> set[str]:
        return {PurePosixPath(name).stem.lower() for name in self._files.images}

    @cached_property
    def _labels(self) -> set[str]:
        return {label_name(name) for name in self._files.images}

    def _look(self, name: str) -> str:
        suffix = PurePosixPath(name).suffix.lower()
        if PurePosixPath(name).name in _OWN:
            return ""
        if suffix == ".json":
            return self._json(name)
        if suffix == ".xml":
            return self._xml(name)
        if suffix in (".csv", ".tsv"):
            return self._table(name)
        if suffix == ".txt":
            return self._text(name)
        if suffix in (".yaml", ".yml"):
            return "YAML about images" if any(map(self._mentions, lines(self._files.head(name)))) else ""
        if suffix == ".jsonl":
            head = self._files.head(name)
            return "paligemma" if '"suffix"' in head else "JSON lines"
        if suffix == ".manifest":
            return "JSON lines" if self._files.head(name).lstrip().startswith("{") else ""
        return _BY_SUFFIX.get(suffix, "") or _by_ending(name)

    def _json(self, name: str) -> str:
        found = self._outline(name)
        if found is None or not (found.is_whole or found.keys or found.first):
            return "broken JSON"
        kind = _kind_of(found)
        if not kind and name.endswith(ANNOTATIONS):
            return "coco"
        if kind or found.is_whole:
            return kind or ("JSON" if self.is_of_image(name) else self._about_images(name))
        return "broken JSON"

    def _outline(self, name: str) -> Outline | None:
        """What a JSON file holds at its top; None where it is empty or no text."""
        with self._content(name) as content:
            return None if content is None else outline(content)

    @contextmanager
    def _content(self, name: str) -> "Iterator[bytes | mmap.mmap | None]":
        """A JSON file in UTF-8, a large one through a window; None where it is no text."""
        uri, size = self._files.uri(name), self._files.entries[name].size
        if size > _MAPPED and storage.is_local(uri):
            with Path(uri).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if b"\0" not in content[:4]:
                    yield content
                    return
        try:
            text = guess_text(storage.read_bytes(uri)).content.encode()
        except NotTextError:
            yield None
        else:
            yield text

    def _about_images(self, name: str) -> str:
        """JSON of a tool that is not known, but that says something of images by their names; a list of them does not.

        In a list, as in that of a split, there are names of images and nothing else.
        """
        named = others = False
        with self._content(name) as content:
            for found in _STRING.finditer(content or b""):
                text = found[1].decode(errors="replace").replace("\\/", "/").replace("\\\\", "/")
                is_name, is_key = self._is_named(text), bool(found[2])
                named |= is_name
                others |= is_name == is_key
                if named and others:
                    return "JSON about images"
            rest = _STRING.sub(b"", content or b"") if named else b""
        return "JSON about images" if _MORE_THAN_LISTS.search(rest) else ""

    def _xml(self, name: str) -> str:
        root = _ROOT.search(_PROLOGUE.sub("", self._files.head(name)))
        kind = {"annotation": "voc", "annotations": "cvat"}.get(root[1], "") if root else ""
        return kind or (f"XML with the root `{root[1]:.40}`" if root else "broken XML")

    def _table(self, name: str) -> str:
        first, *rows = lines(self._files.head(name))[:20] or [""]
        if "region_shape_attributes" in first:
            return "via"
        if "CSV_HEADER" in "".join([first, *rows]):
            return "VIA 3"
        columns = next(csv.reader([first], delimiter="\t" if "\t" in first else ";" if ";" in first else ","), [])
        if any(_BOX_COLUMNS.search(column) for column in columns):
            return "CSV of boxes or masks"
        return "CSV about images" if any(self._mentions(row) for row in [first, *rows]) else ""

    def _text(self, name: str) -> str:
        head = lines(self._files.head(name))[:20]
        numeric = [row for row in head if _numbers(row) >= 5]
        if name in self._labels or "labels" in PurePosixPath(name).parts[:-1]:
            return "yolo" if numeric or not any(head) else "text of the same name" if self.is_of_image(name) else ""
        if self.is_of_image(name):
            return "text of the same name"
        about = [row for row in head if self._mentions(row)]
        if about and any(_numbers(row) >= 4 for row in head):
            return "text with boxes"
        is_table = bool(about) and all(self._is_row(row) for row in head if row.strip())
        return "text about images" if is_table else ""

    def _is_row(self, row: str) -> bool:
        """Whether a line begins with the name of an image and says something of it other than where it lies."""
        first, *others = re.split(r"[,;\s]+", row.strip(), maxsplit=20)
        return self._is_named(first) and any(not self._is_named(word) and "/" not in word for word in others)

    def _mentions(self, row: str) -> bool:
        """Whether a line names an image."""
        return any(self._is_named(word) for word in re.split(r"[,;\s\"']+|:(?=\s|$)", row)[:8] if word)

    def _is_named(self, path: str) -> bool:
        """Whether a path is that of an image, with or without its suffix, in whatever folder."""
        word = PurePosixPath(path).name.lower()
        return word in self._names or (len(word) >= _SHORTEST and word in self._stems)

    @cached_property
    def _masks(self) -> list[str]:
        """Pictures that are masks of others: of one stem or with more behind it, and of few values."""
        groups: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        by_stem: dict[str, list[str]] = {}
        for name in self._files.images:
            by_stem.setdefault(PurePosixPath(name).stem.lower(), []).append(name)
        for name in self._files.images:
            photo, ending = _photo_of(name, by_stem)
            if photo:
                kind = str(PurePosixPath(name).parent), ending, PurePosixPath(name).suffix.lower()
                groups.setdefault(kind, []).append((name, photo))
        found: list[str] = []
        for (folder, ending, _), pairs in groups.items():
            photos = str(PurePosixPath(pairs[0][1]).parent)
            is_called = _MASK.search(ending) or (_MASK.search(folder) and not _MASK.search(photos))
            sampled = pairs[:_SAMPLED]
            if is_called or sum(self._is_mask(*pair) for pair in sampled) * 2 > len(sampled):
                found += [name for name, _ in pairs]
        return sorted(found)

    def _is_mask(self, name: str, photo: str) -> bool:
        """Whether a picture has few colours, unlike its photo; a JPEG never has."""
        return self._has_few_colours(name) and not self._has_few_colours(photo)

    def _has_few_colours(self, name: str) -> bool:
        uri = self._files.uri(name)
        try:
            image_HWC = decode_image(storage.read_bytes(uri), name=uri).astype(np.uint32)
        except (DataError, StorageError):
            return True  # a photo it is not
        return len(np.unique(image_HWC @ np.array([1 << 16, 1 << 8, 1], np.uint32))) <= _MOST_COLOURS


def report_unread(
    files: Listing, read: Collection[str], report: ReportFinding, severity: Severity | None = None
) -> int:
    """Tell which files look like annotations and were not read, one finding for each kind; returns how many files.

    Files that look like images and are not read are reported too, and what is no file at all.

    Args:
        files: of the source.
        read: relative paths of those that were read, or reported already.
        report: takes the findings.
        severity: of the findings, where it is not the usual one.
    """
    for name, reason in files.broken.items():
        report(finding("file-broken", reason, file=files.uri(name)))
    for name, reason in files.unread.items():
        report(finding("image-unread", reason, file=files.uri(name)))
    kinds: dict[str, list[str]] = {}
    for name, kind in looks_of(files).annotations(set(read)):
        kinds.setdefault(kind, []).append(name)
    for kind, names in kinds.items():
        report(unread(files, kind, names, severity))
    return sum(map(len, kinds.values()))


def unread(files: Listing, kind: str, names: list[str], severity: Severity | None) -> Finding:
    """The finding about files of one kind."""
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    own = "unpack it" if kind == _IS_PACKED else "export it in a format that is read"
    fix = f"read it with --format {kind}" if kind in registry.names("formats") else own
    message = f"{shown}: looks like {kind} and was not read; {fix}{_HINTS.get(kind, '')}, or move it away"
    return finding("annotations-unread", message, file=files.uri(names[0]), severity=severity)


def _kind_of(found: Outline) -> str:
    if found.is_list:
        keys = _keys(found.first)
        kind = next((kind for kind, wanted in _OF_ELEMENT if set(wanted) <= set(keys)), "")
        return kind or next((f"JSON with a list of `{key}`" for key in keys if _ANNOTATION_KEYS.match(key)), "")
    for kind, wanted in _OF_OBJECT:
        if wanted.items() <= found.keys.items():
            return kind
    if {"filename", "regions"} <= set(_keys(found.first)):
        return "via"
    return next((f"JSON with `{key}`" for key in found.keys if _ANNOTATION_KEYS.match(key)), "")


def _by_ending(name: str) -> str:
    """What a file is that is not looked into, by its name alone."""
    if _TFRECORD.search(name):
        return "TFRecord"
    is_called = _MASK.search(PurePosixPath(name).name)
    return _IS_PACKED if _PACKED.search(name) or (is_called and _ARCHIVE.search(name)) else ""


def _keys(text: bytes) -> list[str]:
    try:
        found: Any = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return []
    return list(found) if isinstance(found, dict) else []


def _numbers(row: str) -> int:
    """How many numbers a line holds."""
    return sum(bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word)) for word in re.split(r"[,;\s]+", row))


def _photo_of(name: str, by_stem: Mapping[str, list[str]]) -> tuple[str, str]:
    """The other picture that a picture has the stem of, and what it has behind it; ("", "") where there is none."""
    own = PurePosixPath(name)
    stem = own.stem.lower()
    cuts = [stem, *(stem[: found.start()] for found in re.finditer(r"[_.\-]", stem))]
    for cut in cuts:
        others = [n for n in by_stem.get(cut, ()) if n != name]
        if others:
            return others[0], stem[len(cut) :]
    return "", ""
