"""PaliGemma's JSON lines: image, prefix (what is asked), suffix (boxes as `<loc>` tokens in the order y1 x1 y2 x2)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from segdist import storage
from segdist.data.class_names import ClassNames
from segdist.data.codes import finding
from segdist.data.listing import SPLITS, FolderFormat, Listing, Report, source_stem, split_of, upright_size_hw
from segdist.data.losses import Losses
from segdist.paligemma.answers import SEPARATOR, Failure, TokenObject, Unread, check_label, parse, write
from segdist.paligemma.locations import are_valid, decode_box, encode_box, widened
from segdist.records import Finding, Instance, Sample, Severity
from segdist.spec import Strict

TASKS = ("detect", "segment")
_REASONS = {
    Failure.MALFORMED: "it is cut off or out of order: four <loc> tokens, sixteen or no <seg> tokens, a blank, a label",
    Failure.INVALID_BOX: "y2 must be larger than y1 and x2 than x1",
}


def recognises(files: Listing) -> bool:
    """Whether there are JSON lines with a prefix and a suffix."""
    return any('"suffix"' in files.head(name) for name in files.with_suffix(".jsonl"))


class Options(Strict):
    """Where the file is and how its boxes were written."""

    path: str
    """A .jsonl file, or a folder with one for each split."""
    images: str = ""
    """Folder that the images' paths begin in; empty means the folder of the .jsonl file."""
    loc_scale: Literal[1023, 1024] = 1023
    """What shares of the image's size were multiplied with. 1023: big_vision and transformers. 1024: many demos."""


@dataclass(frozen=True)
class _Row:
    """One usable line."""

    image: str
    place: str
    suffix: str


class Format(FolderFormat):
    """Reads boxes; masks in `<seg>` tokens are read as their boxes, with a warning."""

    Options: ClassVar[type[Strict]] = Options

    def read(self, report: Report) -> Iterator[Sample]:
        """Every image with the objects of all lines that ask about it."""
        files = self.listing()
        pictures = Listing(storage.absolute(self.options.images)) if self.options.images else Listing(files.root)
        names = ClassNames(report)
        for name in files.with_suffix(".jsonl"):
            by_image: dict[str, list[_Row]] = {}
            for row in _rows(files, name, report):
                by_image.setdefault(row.image, []).append(row)
            for image, rows in by_image.items():
                sample = self._sample(pictures, files.uri(name), name, image, rows, names, report)
                if sample:
                    yield sample

    def _sample(
        self,
        pictures: Listing,
        file: str,
        name: str,
        image: str,
        rows: list[_Row],
        names: ClassNames,
        report: Report,
    ) -> Sample | None:
        split = _split(name)
        image_id = f"{split}/{image}" if split else image
        located = _located(pictures, image, name if not self.options.images else "")
        if not located:
            message = f"there is no file `{image}` below {pictures.root}; name the folder of the images in `images`"
            report(finding("image-missing", message, file=file, image=image_id))
            return None
        size_hw = upright_size_hw(pictures.uri(located), image_id=image_id, report=report)
        if size_hw is None:
            return None
        found = _Objects(file, image_id, report).of(rows)
        instances = tuple(
            Instance(names(one.label, file), None, decode_box(one.bins, size_hw=size_hw, scale=self.options.loc_scale))
            for one in found
        )
        return Sample(image_id, pictures.uri(located), size_hw, instances, split, source_stem(image))


class _Objects:
    """The objects of one image over all lines; what cannot be read is reported, never guessed."""

    def __init__(self, file: str, image_id: str, report: Report) -> None:
        self._file, self._image_id, self._report = file, image_id, report

    def of(self, rows: list[_Row]) -> list[TokenObject]:
        found: dict[TokenObject, str] = {}
        for row in rows:
            answer = parse(row.suffix)
            for unread in answer.unread:
                self._report_unread(unread, row)
            for one in answer.objects:
                if one in found:
                    message = f"the same object stands in {found[one]}; kept once"
                    self._find("annotation-duplicate", Severity.REPAIRED, message, row.place)
                found.setdefault(one, row.place)
        masks = sum(one.codes is not None for one in found)
        if masks:
            message = f"{masks} mask(s) in <seg> tokens were read as their boxes: they need a pseudo-label"
            self._find("masks-read-as-boxes", Severity.WARNING, message, "")
        return list(found)

    def _report_unread(self, unread: Unread, row: _Row) -> None:
        is_empty = unread.failure is Failure.INVALID_BOX
        code, severity = ("box-empty", Severity.SKIPPED) if is_empty else ("object-malformed", Severity.ERROR)
        message = f"`{unread.text:.80}` is no object: {_REASONS[unread.failure]}"
        self._find(code, severity, message, row.place)

    def _find(self, code: str, severity: Severity, message: str, place: str) -> None:
        self._report(finding(code, message, file=self._file, image=self._image_id, annotation=place, severity=severity))


class Writer:
    """Writes boxes as tokens; every line asks for all classes, so that absent ones are taught too."""

    class Options(Strict):
        """There is nothing to choose."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        options: Any,  # noqa: ARG002 - there are none
        report: Callable[[Finding], None],
    ) -> None:
        self._folder, self._losses = folder, Losses("PaliGemma", report)
        self._prefix = "detect " + SEPARATOR.join(check_label(name) for name in classes)
        self._streams: dict[str, Any] = {}
        (folder / "images").mkdir()

    def add(self, sample: Sample, image_bytes: bytes, file_name: str) -> None:
        """Write an image and its line."""
        (self._folder / "images" / file_name).write_bytes(image_bytes)
        objects: dict[TokenObject, int] = {}
        for number, instance in self._losses.plain(sample):
            one = self._object(sample, number, instance)
            if one in objects:
                message = f"its tokens are those of annotation {objects[one]}; readers keep one of two equal objects"
                self._losses("duplicate-dropped", message, sample, number, left_out=True)
            objects.setdefault(one, number)
        row = {"image": f"images/{file_name}", "prefix": self._prefix, "suffix": write(objects)}
        self._stream(sample.split).write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file of each split."""
        for stream in self._streams.values():
            stream.close()

    def _stream(self, split: str) -> Any:
        if split not in self._streams:
            self._streams[split] = (self._folder / f"{split or 'all'}.jsonl").open("w", encoding="utf-8")
        return self._streams[split]

    def _object(self, sample: Sample, number: int, instance: Instance) -> TokenObject:
        if instance.mask is not None:
            self._losses("mask-dropped", "the mask was written as its box", sample, number)
        bins = encode_box(instance.box_xyxy, size_hw=sample.size_hw)
        if not are_valid(bins):
            message = "it is smaller than a 1,024th of the image and was made that large"
            self._losses("box-widened", message, sample, number)
            bins = widened(bins)
        back = decode_box(bins, size_hw=sample.size_hw)
        if max(abs(a - b) for a, b in zip(back, instance.box_xyxy, strict=True)) > 1e-3:
            self._losses("box-rounded", "its sides were rounded to 1,024 steps", sample, number)
        return TokenObject(instance.label, bins)


def _rows(files: Listing, name: str, report: Report) -> Iterator[_Row]:
    """The lines that ask for objects."""
    uri = files.uri(name)
    for number, line in enumerate(storage.read_bytes(uri).splitlines(), 1):
        place = f"line {number}"
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            image, prefix, suffix = (_text(content, key) for key in ("image", "prefix", "suffix"))
        except (ValueError, TypeError, KeyError) as error:
            message = f"a line must be a JSON object with texts `image`, `prefix` and `suffix`: {error}"
            report(finding("row-malformed", message, file=uri, annotation=place))
            continue
        if prefix.split(" ")[0].strip().lower() not in TASKS:
            message = f"`{prefix:.60}` does not ask to detect or segment; the line was left out"
            report(finding("task-unread", message, file=uri, image=image, annotation=place))
            continue
        yield _Row(image, place, suffix)


def _text(content: Mapping[str, Any], key: str) -> str:
    if not isinstance(content[key], str):
        raise TypeError(f"`{key}` is {content[key]!r:.40}")
    return str(content[key])


def _located(pictures: Listing, image: str, name: str) -> str:
    """The path of an image: relative to its .jsonl file, to the folder, or by a name that only one file has."""
    folder = str(PurePosixPath(name).parent) if name else "."
    for candidate in (str(PurePosixPath(folder, image)), image):
        if candidate in pictures:
            return candidate
    same = [n for n in pictures.images if PurePosixPath(n).name == PurePosixPath(image).name]
    return same[0] if len(same) == 1 else ""


def _split(name: str) -> str:
    """The split that a file is for: by its name (`train.jsonl`, `_annotations.valid.jsonl`) or its folder."""
    parts = PurePosixPath(name).name.lower().replace("-", ".").replace("_", ".").split(".")
    return next((SPLITS[part] for part in parts if part in SPLITS), None) or split_of(name) or ""
