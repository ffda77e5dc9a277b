"""COCO JSON: a file, a folder with some, or Roboflow's layout of train, valid and test folders."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from pydantic import Field

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.plugins import DatasetFormat
from segdist.core.records import ReportFinding, Sample, Severity
from segdist.core.spec import Split, digest
from segdist.core.text import counted, short
from segdist.reading.coco.chunk import CocoChunk
from segdist.reading.coco.export import CONVERSION, Writer
from segdist.reading.coco.frames import check_frames
from segdist.reading.coco.index import CocoIndex, ImageEntry, Key, open_index
from segdist.reading.coco.instances import Categories
from segdist.reading.codes import finding
from segdist.reading.foreign_paths import KnownFiles, Match
from segdist.reading.geometry import UnusableAnnotation, stated_size
from segdist.reading.image_formats import IMAGE_SUFFIXES
from segdist.reading.listing import SPLITS, FolderOptions, Listing, source_stem, split_of
from segdist.reading.looks import looks_of, report_unread

__all__ = ["Format", "Options", "Writer", "recognises"]
ROBOFLOW_FILE = "_annotations.coco.json"
IMAGES_PER_CHUNK = 512
"""Images whose annotations are read together; fewer where the images themselves are opened, which takes longer."""
BYTES_PER_CHUNK = 1 << 25
"""Bytes of their annotations."""
_MOST_OF_IMAGE = 1 << 27
"""Bytes of the annotations of one image."""
_IMAGE_FOLDERS = ("", "images/", "data/")
_SPLIT_IN_NAME = re.compile(r"(?:^|[_\-.])(train|valid|val|test)(?:ing|idation)?\d*$", re.IGNORECASE)
_NOT_INSTANCES = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
"""How COCO's own files begin that hold the same images with other annotations."""


class Options(FolderOptions):
    """Where the annotations and the images are."""

    path: str
    """A COCO JSON file, or a folder with one inside, or with train, valid and test folders as Roboflow makes them."""
    images: str = ""
    """Folder of the images; empty looks beside the JSON file and in its `images` folder."""
    splits: tuple[Split, ...] = Field(default=("train", "val", "test"), min_length=1)
    """Which of the folder's splits to read."""
    find_images: bool = True
    """false takes the images at their word without looking for their files: to check annotations alone."""
    fit_boxes: bool = True
    """false leaves boxes as they are written, also outside the image or beside their masks: as COCO's evaluator takes
    them."""


@dataclass(frozen=True)
class _Part:
    """One JSON file, with its place, the split it stands for ("" where none is given), and what tells its images."""

    uri: str
    folder: str
    split: str
    prefix: str = ""


class Format(DatasetFormat[Options]):
    """Reads COCO annotations; every fault is a finding with file, image and annotation id."""

    def __init__(self, options: Options) -> None:
        # Workers read images by the URIs of samples, from another working directory.
        images = storage.absolute(options.images) if options.images else ""
        changed = {"path": storage.absolute(options.path), "images": images}
        super().__init__(options.model_copy(update=changed))
        self._licences: tuple[str, ...] = ()
        self._indices: dict[_Part, CocoIndex] = {}
        self._categories: Categories | None = None

    @property
    def place(self) -> str:
        """The file or folder."""
        return self.options.path

    def signature(self) -> str:
        """Changes with the sizes and times of the JSON files and images."""
        places = {part.folder for part in self._parts()} | {self.options.images or self.options.path}
        files = sorted({(e.uri, e.size, e.stamp) for place in places for e in storage.find(place)})
        return digest([self.options.model_dump(mode="json"), files])

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image listed, annotated or not. An image whose file is missing is reported and still listed."""
        for chunk in self.chunks(report):
            yield from chunk.samples(report)

    def chunks(self, report: ReportFinding) -> Iterator[CocoChunk]:
        """The same in pieces that any process can read; what concerns files and images is reported here."""
        parts = self._parts()
        reported = {part.uri for part in parts} | self._note_unread(parts, report)
        indices = {part: open_index(part.uri, report) for part in parts}
        self._indices = indices  # a local copy of a file lives as long as its index, and chunks are read later
        self._categories = Categories(report)
        for part, index in indices.items():
            self._categories.add(part.uri, index.categories, index.used_categories)
        self._licences = tuple(dict.fromkeys(name for i in indices.values() for name in i.licences if name))
        for part, index in indices.items():
            if part.split and not index.has_annotations:
                _report_empty_split(part, report)
            check_frames(index, report)
            names = self._categories.names(part.uri)
            yield from _Reader(part, index, names, self._files(part), report).chunks(fit_boxes=self.options.fit_boxes)
        if not self.options.path.lower().endswith(".json"):
            files = Listing(self.options.path)
            report_unread(files, [name for name in files if files.uri(name) in reported], report)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_indices": {}, "_categories": None}

    def ids(self) -> tuple[Mapping[Key, str], Categories]:
        """The `image_id` of samples by the image ids of a file, and the categories; known once it has been read."""
        images = ((part, image) for part, index in self._indices.items() for image in index.images)
        assert self._categories is not None
        return {image.key: _image_id(part, image.file_name) for part, image in images}, self._categories

    def licences(self) -> tuple[str, ...]:
        """The licences that the files state; known once they have been read."""
        return self._licences

    def image_bytes(self, sample: Sample) -> bytes:
        """The file as it is."""
        return storage.read_bytes(sample.image_uri)

    def _parts(self) -> list[_Part]:
        path = self.options.path.rstrip("/") or "/"
        if not storage.exists(path):
            raise DataError(f"There is no {path}. `path` must name a COCO JSON file or a folder that holds one.")
        if [entry.uri for entry in storage.find(path)] == [path]:
            return [_Part(path, path.rpartition("/")[0] or ".", "")]
        files = self._json_files()
        parts = self._roboflow_parts() or _named_parts(path, self._like_coco(files), self.options.splits)
        if not parts and files:
            raise DataError(
                f"{path} holds no COCO annotations of objects, only {', '.join(map(_name, files[:4]))}. Name the JSON "
                "file itself in `path` if it has boxes or masks."
            )
        if not parts:
            raise DataError(
                f"{path} holds no COCO annotations: no JSON file in it, and no train, valid or test folder with "
                f"{ROBOFLOW_FILE}. Name the JSON file itself in `path`."
            )
        return _apart(path, parts)

    def _json_files(self) -> list[str]:
        """JSON files below the folder; macOS puts a `._` twin without content beside each."""
        found = (e.uri for e in storage.find(self.options.path))
        return sorted(u for u in found if u.lower().endswith(".json") and not _is_hidden(u) and _name(u) != CONVERSION)

    def _like_coco(self, uris: list[str]) -> list[str]:
        """Those that hold what COCO files hold, as their names or what is in them says; all where none does."""
        if len(uris) < 2 or any(_name(uri).startswith("instances_") for uri in uris):
            return uris
        files = Listing(self.options.path)
        like = {files.uri(name) for name in looks_of(files).like("coco", ".json")}
        return [uri for uri in uris if uri in like] or uris

    def _roboflow_parts(self) -> list[_Part]:
        return [
            _Part(uri, uri.rpartition("/")[0], SPLITS[folder.lower()], prefix=SPLITS[folder.lower()])
            for uri in self._json_files()
            for folder, name in [PurePosixPath(uri).parts[-2:]]
            if name == ROBOFLOW_FILE and SPLITS.get(folder.lower()) in self.options.splits
        ]

    def _note_unread(self, parts: list[_Part], report: ReportFinding) -> set[str]:
        """Tell which files of COCO's own naming below the folder are not read; gives those."""
        read, reported = {part.uri for part in parts}, set[str]()
        if self.options.path.lower().endswith(".json"):
            return reported
        for uri in self._json_files():
            folder = PurePosixPath(uri).parts[-2]
            if uri in read:
                continue
            if _name(uri) == ROBOFLOW_FILE and folder.lower() not in SPLITS:
                message = f"folder `{folder}` is none of {', '.join(SPLITS)} and was not read"
                report(finding("folder-unread", message, file=uri))
                reported.add(uri)
            elif _name(uri).startswith(_NOT_INSTANCES):
                report(finding("file-unread", "it holds no boxes or masks of its own and was not read", file=uri))
                reported.add(uri)
        return reported

    def _files(self, part: _Part) -> "_ImageFiles":
        is_coco_layout = PurePosixPath(part.folder).name == "annotations"
        beside = part.folder.rpartition("/")[0] if is_coco_layout else part.folder
        return _ImageFiles(self.options.images or beside or part.folder, look=self.options.find_images)


class _ImageFiles:
    """The files below a folder, by the names under which annotations may know them."""

    def __init__(self, folder: str, *, look: bool) -> None:
        self.folder, self.look = folder, look
        self._root = str(PurePosixPath(folder)) if storage.is_local(folder) else folder.rstrip("/")
        self.used: set[str] = set()

    @cached_property
    def _files(self) -> dict[str, str]:
        """URI by the path below the folder."""
        found = (e.uri for e in storage.find(self.folder))
        return {u.removeprefix("./").removeprefix(self._root.removeprefix("./")).lstrip("/"): u for u in found}

    def locate(self, file_names: Iterable[str], split: str) -> Mapping[str, Match]:
        """The path below the folder of each image, by its name in the annotations; nothing where none is looked for."""
        if not self.look:
            return {}
        direct = {
            name: next((b for f in _IMAGE_FOLDERS if (b := f"{f}{name}") in self._files), name) for name in file_names
        }
        found = KnownFiles(b for b in self._files if not _is_hidden(b)).match_all(direct.values(), split=split)
        self.used.update(match.name for match in found.values())
        return {name: found[below] for name, below in direct.items()}

    def uri(self, below: str) -> str:
        """The full URI of a file below the folder."""
        return self._files[below]

    def unlisted(self, split: str) -> list[str]:
        """Images of a split below the folder that no annotation file has named."""
        images = (b for b in self._files if b.lower().endswith(IMAGE_SUFFIXES) and not _is_hidden(b))
        return sorted(b for b in images if b not in self.used and (split_of(b) or split) == split) if self.look else []


class _Reader:
    """The samples of one JSON file, in chunks."""

    def __init__(
        self, part: _Part, index: CocoIndex, names: Mapping[str, str], files: _ImageFiles, report: ReportFinding
    ) -> None:
        self._part, self._index, self._names, self._files, self._report = part, index, names, files, report
        self._located = files.locate((image.file_name for image in index.images), part.split or _split_in(part.uri))

    def chunks(self, *, fit_boxes: bool) -> Iterator[CocoChunk]:
        index = self._index
        for numbers in self._together():
            found = [(n, sample) for n in numbers if (sample := self._bare(index.images[n]))]
            yield CocoChunk(
                uri=index.uri,
                path=index.path,
                names=self._names,
                expects_mask=index.has_masks,
                fit_boxes=fit_boxes,
                bare=tuple(sample for _, sample in found),
                spans=tuple(index.spans_of(n) for n, _ in found),
            )
        self._note_unlisted()

    def _together(self) -> Iterator[list[int]]:
        """Images whose annotations are read together: some number of them, and of bytes."""
        index, most = self._index, IMAGES_PER_CHUNK // 16 if self._files.look else IMAGES_PER_CHUNK
        before = np.concatenate([[0], np.cumsum(index.spans[:, 1] - index.spans[:, 0])])
        numbers: list[int] = []
        together = 0
        for n, size in enumerate(np.diff(before[index.first]).tolist()):
            if size > _MOST_OF_IMAGE:
                name = index.images[n].file_name
                message = f"its annotations must be at most {_MOST_OF_IMAGE:,} bytes, but are {size:,}; it was left out"
                self._report(finding("image-too-crowded", message, file=self._part.uri, image=name))
                continue
            if numbers and (len(numbers) == most or together + size > BYTES_PER_CHUNK):
                yield numbers
                numbers, together = [], 0
            numbers.append(n)
            together += size
        if numbers:
            yield numbers

    def _bare(self, image: ImageEntry) -> Sample | None:
        """The sample of an image without its instances."""
        name = image.file_name
        match = self._located.get(name, Match())
        came = f"{short(image.height)} and {short(image.width)}"
        message = f"`height` and `width` must be whole numbers above 0, but are {came}"
        try:
            size_hw = stated_size(image.height, image.width)
        except UnusableAnnotation as problem:
            size_hw, message = None, problem.message
        if size_hw is None:
            self._report(finding("image-size-invalid", message, file=self._part.uri, image=name))
            return None
        image_id = _image_id(self._part, name)
        uri = self._files.uri(match.name) if match.name else storage.join(self._files.folder, name)
        if match.name and not f"/{match.name}".endswith("/" + name):
            message = f"`{name}` was found as `{match.name}`"
            self._report(finding("image-renamed", message, file=self._part.uri, image=image_id))
        elif self._files.look and not match.name:
            self._report(finding("image-missing", self._missing(name, match), file=self._part.uri, image=image_id))
        return Sample(
            image_id=image_id,
            image_uri=uri,
            size_hw=size_hw,
            split=self._part.split,
            group=source_stem(name),
        )

    def _missing(self, name: str, match: Match) -> str:
        """Why an image has no file, and what to do."""
        if match.rivals:
            return f"`{name}` could be any of {', '.join(match.rivals[:3])}; write its folder into `file_name`"
        return f"there is no file `{name}` below {self._files.folder}; name the folder of the images in `images`"

    def _note_unlisted(self) -> None:
        if not self._part.split:
            return  # a folder with one JSON file may hold anything; a split's folder holds its images
        if names := self._files.unlisted(self._part.split):
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            message = f"not listed in it, so not read: {counted(len(names), 'image')} beside it: {shown}"
            self._report(finding("image-unlisted", message, file=self._part.uri))


def _named_parts(path: str, files: Sequence[str], splits: Sequence[str]) -> list[_Part]:
    """JSON files in the folder itself or in `annotations`, as in COCO's own layout; splits by `..._train2017`."""
    near = [uri for uri in files if PurePosixPath(uri).parent.name in (PurePosixPath(path).name, "annotations")]
    there = near or files
    instances = [uri for uri in there if _name(uri).startswith("instances_")]
    chosen = instances or [uri for uri in there if not _name(uri).startswith(_NOT_INSTANCES)]
    parts = []
    for uri in chosen:
        stem = PurePosixPath(uri).stem
        split = _split_in(uri) if len(chosen) > 1 else ""
        folder = path if PurePosixPath(uri).parent.name != "annotations" else uri.rpartition("/")[0]
        parts.append(_Part(uri, folder, split, prefix=split or (stem if len(chosen) > 1 else "")))
    return [part for part in parts if not part.split or part.split in splits]


def _apart(path: str, parts: Sequence[_Part]) -> list[_Part]:
    """The parts, with their own paths before the images' names where several would have the same: `val` and `valid`."""
    by_prefix = Counter(part.prefix for part in parts)

    def own(uri: str) -> str:
        below = uri.removeprefix(f"{path}/")
        return below.rpartition("/")[0] if _name(uri) == ROBOFLOW_FILE else below.removesuffix(".json")

    return [part if by_prefix[part.prefix] == 1 else replace(part, prefix=own(part.uri)) for part in parts]


def _split_in(uri: str) -> str:
    """The split that a file's name ends in."""
    match = _SPLIT_IN_NAME.search(PurePosixPath(uri).stem)
    return SPLITS[match.group(1).lower()] if match else ""


def _image_id(part: _Part, name: str) -> str:
    """What a sample is called."""
    return f"{part.prefix}/{name}" if part.prefix else name.lstrip("/")


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _is_hidden(uri: str) -> bool:
    return _name(uri).startswith(".") or "/__MACOSX/" in f"/{uri}"


def _report_empty_split(part: _Part, report: ReportFinding) -> None:
    severity = Severity.ERROR if part.split == "train" else Severity.WARNING
    message = f"the split {part.split} has no annotation; check the export, or leave the split out with `splits`"
    report(finding("split-without-annotations", message, file=part.uri, severity=severity))


def recognises(files: Listing) -> bool:
    """Whether a folder holds a JSON file with the lists of COCO, wherever they stand in it."""
    return bool(looks_of(files).like("coco", ".json"))
