"""The files of a source, and what all formats that read a folder of files share."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from posixpath import splitext
from typing import TypeVar

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.plugins import DatasetFormat
from segdist.core.records import ReportFinding, Sample
from segdist.core.spec import Split, Strict, digest
from segdist.core.text import decode_head
from segdist.reading import images
from segdist.reading.codes import finding
from segdist.reading.image_formats import IMAGE_SUFFIXES, LONGEST_MAGIC, NO_IMAGES, is_image, other_format

SPLITS: Mapping[str, Split] = {
    "train": "train", "training": "train", "valid": "val", "val": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""What folders and files of a split are called in the field."""
_HEAD = 65_536
_MOST_LOOKED_AT = 200
"""Files of unknown suffix that are opened to see whether they are images."""
_MOST_BROKEN = 4
"""Broken links and the like that an error lists."""
_YEAR = re.compile(r"[_\-]?\d{4}$")


class Listing:
    """Every file below a folder by its path in it; hidden files (`.DS_Store`, `._photo.jpg`) are no data.

    The listing of a file holds that file alone, and `root` is its folder.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/") or "/"
        self.root = self.place
        self._heads: dict[str, str] = {}
        self._foreign: list[str] = []
        self._others: dict[str, str] = {}

    @cached_property
    def entries(self) -> Mapping[str, storage.Entry]:
        """Size and stamp by relative path, sorted by name."""
        listed, others = storage.find_all(self.place)
        if [*(e.uri for e in listed), *others] == [self.place]:
            self.root = self.place.rpartition("/")[0]
        start = self.root + "/"
        found = {e.uri.removeprefix(start): e for e in listed if e.uri.startswith(start)}
        self._others = {
            _plain(name): f"{reason}; replace it by what is meant, or remove it"
            for name, reason in ((uri.removeprefix(start), reason) for uri, reason in others.items())
            if not _is_hidden(name)
        }
        seen = {name: entry for name, entry in found.items() if not _is_hidden(name)}
        self._foreign = [name for name in seen if not name.isprintable() and _plain(name) != name]
        return {name: entry for name, entry in seen.items() if name not in self._foreign}

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def uri(self, name: str) -> str:
        """The full URI of a file by its relative path."""
        return f"{self.root}/{name}"

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Relative paths that end so, in any case."""
        return [name for name in self.entries if name.lower().endswith(suffixes)]

    @cached_property
    def images(self) -> list[str]:
        """Relative paths of the images."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    @property
    def broken(self) -> dict[str, str]:
        """What is no file that can be read, each with the reason: links that lead nowhere or to folders, pipes."""
        return self._others if self.entries is not None else {}

    def why_broken(self, name: str) -> str:
        """Why what should be at a path cannot be read: it, a folder above it, or what is in it is `broken`; else ""."""
        if not self.broken:
            return ""
        above = (self.broken[place] for place in (name, *_parents(name)) if place in self.broken)
        return next(above, self._broken_inside.get(name, ""))

    @cached_property
    def _broken_inside(self) -> Mapping[str, str]:
        return {folder: reason for name, reason in self.broken.items() for folder in _parents(name)}

    @cached_property
    def unread(self) -> dict[str, str]:
        """Files that look like images and are not read, each with the reason."""
        found, looked_at = {}, 0
        for name in self.entries:
            if name.lower().endswith((*IMAGE_SUFFIXES, *NO_IMAGES)):
                continue
            kind = other_format(name)
            if not kind and looked_at < _MOST_LOOKED_AT:
                looked_at += 1
                head = storage.read_head(self.uri(name), LONGEST_MAGIC)
                kind = other_format(name, head)
                if is_image(head):
                    found[name] = "it is an image, but its name does not end like one; rename it, to `.jpg` or `.png`"
            if kind:
                found[name] = f"{kind} is not read; convert it to PNG, TIFF or JPEG"
        undecodable = {_plain(name): "its name is no UTF-8 text; rename it" for name in self._foreign}
        return found | undecodable

    def head(self, name: str) -> str:
        """The beginning of a text file, for a look at what it is; bytes that are no text are replaced."""
        if name not in self._heads:
            self._heads[name] = decode_head(storage.read_head(self.uri(name), _HEAD))
        return self._heads[name]


class FolderOptions(Strict):
    """Where the files are."""

    path: str


FolderOptionsT_co = TypeVar("FolderOptionsT_co", bound=FolderOptions, covariant=True)


class FolderFormat(DatasetFormat[FolderOptionsT_co]):
    """What formats share that read a folder of files, local or in an object store, named by the option `path`."""

    def __init__(self, options: FolderOptionsT_co) -> None:
        # Workers read images by the URIs of samples, from another working directory.
        path = storage.absolute(options.path)
        super().__init__(options.model_copy(update={"path": path.rstrip("/") or "/"}))

    @property
    def place(self) -> str:
        """The folder."""
        return self.options.path

    def signature(self) -> str:
        """Changes with the options and with the name, size or time of any file."""
        entries = [(e.uri, e.size, e.stamp) for e in self.listing().entries.values()]
        return digest([self.options.model_dump(mode="json"), entries])

    def image_bytes(self, sample: Sample) -> bytes:
        """The file as it is."""
        return storage.read_bytes(sample.image_uri)

    def listing(self) -> Listing:
        """The files of the folder.

        Raises:
            DataError: there is no such folder, or nothing in it.
        """
        files = Listing(self.options.path)
        if not files.entries:
            broken = [f" {files.uri(name)}: {reason}." for name, reason in files.broken.items()][:_MOST_BROKEN]
            message = f"There are no files below {self.options.path}. `path` must name a folder with images."
            raise DataError(message + "".join(broken))
        return files


def split_of(name: str) -> Split | None:
    """The split that a folder of a relative path stands for (`valid`, `train2017`); None where none has such a name."""
    folders = (_YEAR.sub("", part.lower()) for part in name.split("/")[:-1])
    return next((SPLITS[folder] for folder in folders if folder in SPLITS), None)


def swap_folder(name: str, old: str, new: str) -> str | None:
    """A relative path with its last folder called `old` renamed; None where it has none."""
    parts = list(PurePosixPath(name).parts)
    places = [number for number, part in enumerate(parts[:-1]) if part == old]
    if not places:
        return None
    parts[places[-1]] = new
    return str(PurePosixPath(*parts))


def label_name(image: str) -> str:
    """Where YOLO looks for an image's labels: the folder `labels` beside its `images`, or beside the image itself."""
    return stem_of(swap_folder(image, "images", "labels") or image) + ".txt"


def stem_of(name: str) -> str:
    """A relative path without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def source_stem(name: str) -> str:
    """What copies of one image have in common: the name before Roboflow's `.rf.`, or the file's stem.

    Folders may be written as on Windows.
    """
    own = name.replace("\\", "/").rstrip("/").rpartition("/")[2]  # not by `pathlib`, which keeps every name forever
    return own.partition(".rf.")[0] if ".rf." in own else splitext(own)[0]


def upright_size_hw(uri: str, *, image_id: str, report: ReportFinding) -> tuple[int, int] | None:
    """Height and width of an image with its orientation applied, from its header; None, and a finding, if none."""
    try:
        try:
            head = storage.read_head(uri, _HEAD)
            is_long_png = head.startswith(b"\x89PNG") and len(head) == _HEAD  # EXIF may stand behind the pixels
            return images.header_of(head, tail=storage.read_tail(uri, _HEAD) if is_long_png else b"").size_hw
        except DataError:  # metadata before the size may be longer than the head
            return images.header_of(storage.read_bytes(uri), name="it").size_hw
    except DataError as error:
        report(finding("image-unreadable", str(error), file=uri, image=image_id))
        return None


def _parents(name: str) -> list[str]:
    return [str(folder) for folder in PurePosixPath(name).parents]


def _plain(name: str) -> str:
    """A name that can be printed and stored: bytes that are no UTF-8 are shown as such."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
