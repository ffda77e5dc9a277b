"""AI2-THOR frames: RGB images, their colour-coded instance frames, and the metadata that names the colours.

The simulator has no file layout of its own; this is the one that is read, for each folder that holds `frames`:

    frames/0001.png      event.frame, PNG or JPEG
    instances/0001.png   event.instance_segmentation_frame, PNG (a JPEG changes the colours)
    metadata/0001.json   event.metadata as JSON, or at least its `objects` and `colors`;
    metadata.json        or one such file for all frames of the folder

The colours are taken from `colors` (a list of `name` and `color`), or from `object_id_to_color` or
`color_to_object_id` as the event holds them. `objects` gives `objectType` for each `objectId`; an id that is not listed
there is named by its part before the first `|`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.records import Instance, ReportFinding, Rle, Sample
from segdist.core.text import counted, short
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import finding
from segdist.reading.label_maps import decode_values, rles_by_value
from segdist.reading.listing import FolderFormat, FolderOptions, Listing, split_of, swap_folder
from segdist.reading.looks import report_unread
from segdist.reading.text_files import read_json

_SUFFIXES = (".png", ".PNG", ".bmp", ".jpg", ".jpeg", ".JPG")


def recognises(files: Listing) -> bool:
    """Whether there are folders of frames and of instance frames, and metadata."""
    folders = {part for name in files for part in PurePosixPath(name).parts[:-1]}
    return {"frames", "instances"} <= folders and any("metadata" in name for name in files.with_suffix(".json"))


class Options(FolderOptions):
    """Where the frames are."""

    path: str
    """A folder in the layout above, or with such folders inside: one for each scene or split."""
    frames: str = "frames"
    """Name of the folder of RGB images."""
    instances: str = "instances"
    """Name of the folder of instance frames."""
    metadata: str = "metadata"
    """Name of the folder of metadata, and of the file that serves all frames of a folder."""
    classes: dict[str, str] = {}
    """Class name for colours that are named but are no object of the table, such as {Floor: floor}; others stay out."""


@dataclass(frozen=True)
class _Table:
    """What a metadata file says.

    Attributes:
        ids: object id, or class name, by colour as 0xRRGGBB.
        types: class name by object id.
        scene: name of the scene; "" where it is not said.
        repeated: names that share their colour with another one.
    """

    ids: Mapping[int, str]
    types: Mapping[str, str]
    scene: str
    repeated: tuple[str, ...]


class Format(FolderFormat[Options]):
    """Reads frames of AI2-THOR; the frames of one scene form a group, which a split never parts."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every RGB frame.

        Raises:
            DataError: there are no frames.
        """
        files, options = self.listing(), self.options
        frames = [n for n in files.images if options.frames in PurePosixPath(n).parts[:-1]]
        if not frames:
            raise DataError(f"There is no folder `{options.frames}` with images below {files.root}. Set `frames`.")
        reader = _Reader(files, options, report)
        for frame in frames:
            if sample := reader.sample(frame):
                yield sample
        reader.close()
        report_unread(files, {*files.images, *reader.tables}, report)


class _Reader:
    """Turns frames into samples; metadata that serves many frames is read once."""

    def __init__(self, files: Listing, options: Options, report: ReportFinding) -> None:
        self._files, self._options, self._report = files, options, report
        self._names = ClassNames(report)
        self._table = lru_cache(maxsize=8)(self._read_table)
        self._unlisted: dict[str, int] = {}
        self.tables: set[str] = set()

    def sample(self, frame: str) -> Sample | None:
        uri = self._files.uri(frame)
        coloured = _beside(self._files, frame, self._options.frames, self._options.instances)
        place = self._metadata(frame)
        self.tables.add(place)
        if not coloured or not place:
            what = f"instance frame in `{self._options.instances}`" if not coloured else "metadata with its colours"
            self._report(finding("image-unannotated", f"it has no {what}; it was left out", file=uri, image=frame))
            return None
        table = self._table(place)
        if isinstance(table, str):
            self._report(finding("row-malformed", table, file=self._files.uri(place), image=frame))
            return None
        found = self._regions(frame, coloured)
        if found is None:
            return None
        size_hw, regions = found
        instances = tuple(self._instances(frame, coloured, regions, table))
        scene = table.scene or str(PurePosixPath(frame).parent.parent)
        return Sample(frame, uri, size_hw, instances, split_of(frame) or "", "" if scene == "." else scene)

    def close(self) -> None:
        """Tell what was in the frames but not in the tables, once for each name."""
        for name, frames in sorted(self._unlisted.items()):
            message = (
                f"`{name}` in {counted(frames, 'frame')} is no object of the table; it was not "
                f"read: name it in `classes`"
            )
            self._report(finding("instance-unlisted", message, file=self._files.root))

    def _instances(self, frame: str, coloured: str, regions: Mapping[int, Rle], table: _Table) -> Iterator[Instance]:
        uri = self._files.uri(coloured)
        for colour, rle in regions.items():
            object_id = table.ids.get(colour)
            if object_id is None:
                message = (
                    f"the frame holds {counted(rle.area, 'pixel')} of #{colour:06x}, which no object of the table has"
                )
                self._report(finding("instance-unknown", message, file=uri, image=frame, annotation=f"#{colour:06x}"))
            elif label := self._label(object_id, table):
                yield Instance(self._names(label, uri), rle, rle.box_xyxy)
            else:
                self._unlisted[object_id] = self._unlisted.get(object_id, 0) + 1

    def _label(self, object_id: str, table: _Table) -> str:
        """The class of an object; "" for a named colour that is none."""
        kind = object_id.partition("|")[0]
        named = self._options.classes.get(object_id) or self._options.classes.get(kind)
        return str(named or table.types.get(object_id) or (kind if "|" in object_id else ""))

    def _regions(self, frame: str, coloured: str) -> tuple[tuple[int, int], Mapping[int, Rle]] | None:
        uri = self._files.uri(coloured)
        try:
            decoded = decode_values(storage.read_bytes(uri), colours=True, name="the instance frame")
        except DataError as error:
            self._report(finding("mask-unreadable", str(error), file=uri, image=frame))
            return None
        if decoded.is_lossy:
            message = "colours do not survive in a JPEG; save the instance frame as PNG"
            self._report(finding("mask-lossy", message, file=uri, image=frame))
            return None
        height, width = decoded.values_HW.shape
        return (height, width), rles_by_value(decoded.values_HW)

    def _metadata(self, frame: str) -> str:
        """The metadata of a frame: its own file, or the nearest one that serves the folder."""
        own = swap_folder(frame, self._options.frames, self._options.metadata)
        names = [str(PurePosixPath(own).with_suffix(".json"))] if own else []
        shared = f"{self._options.metadata}.json"
        names += [str(folder / shared) for folder in PurePosixPath(frame).parents]
        return next((name for name in names if name in self._files), "")

    def _read_table(self, name: str) -> _Table | str:
        """What a metadata file says, or why it cannot be read."""
        uri = self._files.uri(name)
        try:
            table = _table(read_json(uri, self._report))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            reason = error or type(error).__name__
            return f"the metadata cannot be read: {reason}; see `colors` in AI2-THOR's event. The frame is left out"
        for repeated in table.repeated:
            message = f"`{repeated}` has the colour of another object; both cannot be distinguished"
            self._report(finding("colour-duplicate", message, file=uri, annotation=repeated))
        return table


def _table(content: Any) -> _Table:
    """What a metadata file says.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is of another shape.
    """
    if isinstance(content.get("metadata"), dict):
        content = {**content["metadata"], **content}
    pairs = [(one["name"], one["color"]) for one in content.get("colors") or []]
    pairs += list((content.get("object_id_to_color") or {}).items())
    pairs += [(name, colour) for colour, name in (content.get("color_to_object_id") or {}).items()]
    if not pairs:
        raise ValueError("it has neither `colors` nor `object_id_to_color`")
    ids: dict[int, str] = {}
    repeated = []
    for name, colour in pairs:
        if ids.setdefault(_colour(colour), str(name)) != str(name):
            repeated.append(str(name))
    types = {str(one["objectId"]): str(one["objectType"]) for one in content.get("objects") or []}
    return _Table(ids, types, str(content.get("sceneName") or ""), tuple(dict.fromkeys(repeated)))


def _colour(value: Any) -> int:
    """A colour as 0xRRGGBB: a list of three numbers, or text such as `(12, 34, 56)` or `#0c2238`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value.strip()):
        return int(value.strip()[1:], 16)
    parts = [int(v) for v in (re.findall(r"-?\d+", value) if isinstance(value, str) else value)]
    if len(parts) != 3 or not all(0 <= v <= 255 for v in parts):
        raise ValueError(f"a colour must be three numbers in 0..255, but is {short(value)}")
    return parts[0] << 16 | parts[1] << 8 | parts[2]


def _beside(files: Listing, frame: str, old: str, new: str) -> str:
    """The file of the same stem in the other folder."""
    other = swap_folder(frame, old, new)
    names = [str(PurePosixPath(other).with_suffix(suffix)) for suffix in _SUFFIXES] if other else []
    return next((name for name in names if name in files), "")
