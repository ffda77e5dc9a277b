"""Reads JSON lines: every image with the objects of all lines that ask about it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from segdist.core import storage
from segdist.core.records import Instance, ReportFinding, Sample, Severity
from segdist.core.text import counted
from segdist.formats.paligemma.lines import ParsedLine, located, rows, split_in
from segdist.nets.paligemma.answers import Failure, TokenObject, UnreadPiece, parse
from segdist.nets.paligemma.locations import Edges, Scale, decode_box
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import finding
from segdist.reading.listing import FolderFormat, FolderOptions, Listing, source_stem, upright_size_hw
from segdist.reading.looks import report_unread

_REASONS = {
    Failure.MALFORMED: "it is cut off or out of order: four <loc> tokens, sixteen or no <seg> tokens, a blank, a label",
    Failure.INVALID_BOX: "y2 must be larger than y1 and x2 than x1",
}


class Options(FolderOptions):
    """Where the file is and how its boxes were written."""

    path: str
    """A .jsonl file, or a folder with one for each split."""
    images: str = ""
    """Folder that the images' paths begin in; empty means the folder of the .jsonl file."""
    loc_scale: Literal[1023, 1024] = 1023
    """What shares of the image's size were multiplied with. 1023: big_vision and transformers. 1024: many demos."""
    edges: Edges = "round"
    """How boxes of masks in `<seg>` tokens become whole pixels: round, or truncate as big_vision's evaluator does."""
    codec: str = ""
    """What decodes masks in `<seg>` tokens: `vae-oid` (Google's), `shipped`, or a path or URI of either or of your own.
    Empty decodes those that segdist wrote with its shipped codec, and reads all others as their boxes."""


class Format(FolderFormat[Options]):
    """Reads boxes, and masks where the codec that wrote them is known; other masks as their boxes, with a warning."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image with the objects of all lines that ask about it."""
        files = self.listing()
        pictures = Listing(storage.absolute(self.options.images)) if self.options.images else Listing(files.root)
        names = ClassNames(report)
        for name in files.with_suffix(".jsonl"):
            by_image: dict[str, list[ParsedLine]] = {}
            for row in rows(files, name, report):
                by_image.setdefault(row.image, []).append(row)
            for image, lines in by_image.items():
                sample = self._sample(pictures, files.uri(name), name, image, lines, names, report)
                if sample:
                    yield sample
        report_unread(files, files.with_suffix(".jsonl"), report)

    def _sample(
        self,
        pictures: Listing,
        file: str,
        name: str,
        image: str,
        lines: list[ParsedLine],
        names: ClassNames,
        report: ReportFinding,
    ) -> Sample | None:
        split = split_in(name)
        image_id = f"{split}/{image}" if split else image
        place = located(pictures, image, name if not self.options.images else "", split)
        if not place:
            message = f"there is no file `{image}` below {pictures.root}; name the folder of the images in `images`"
            report(finding("image-missing", message, file=file, image=image_id))
            return None
        size_hw = upright_size_hw(pictures.uri(place), image_id=image_id, report=report)
        if size_hw is None:
            return None
        found = _Objects(file, image_id, self.options, report)
        instances = tuple(replace(i, label=names(i.label, file)) for i in found.of(lines, size_hw))
        return Sample(image_id, pictures.uri(place), size_hw, instances, split, source_stem(image))


class _Objects:
    """The objects of one image over all lines; what cannot be read is reported, never guessed."""

    def __init__(self, file: str, image_id: str, options: Options, report: ReportFinding) -> None:
        self._file, self._image_id, self._report = file, image_id, report
        self._options = options

    def of(self, lines: list[ParsedLine], size_hw: tuple[int, int]) -> Iterator[Instance]:
        """Instances in the order of the lines; those that cover no pixel are reported."""
        found = self._read(lines)
        codecs = {row.place: self._codec(row) for row in lines if "<seg" in row.suffix}
        lost = sum(one.codes is not None and not codecs[place] for one, place in found.items())
        if lost:
            message = (
                f"{counted(lost, 'mask')} in <seg> tokens became boxes: name what wrote them in `codec`, Google's "
                "`vae-oid` or the path of your own, or let a teacher label them"
            )
            self._find("masks-read-as-boxes", Severity.WARNING, message, "")
        for one, place in found.items():
            instance = _instance(one, codecs.get(place, ""), size_hw, self._options)
            if instance is None:
                message = f"`{one!s:.60}` covers no pixel of the image"
                self._find("mask-empty", Severity.SKIPPED, message, place)
            else:
                yield instance

    def _codec(self, row: ParsedLine) -> str:
        """What decodes the masks of a line; "" where it is not known."""
        from segdist.nets.paligemma.codec_files import SHIPPED, digest

        if not self._options.codec:
            return SHIPPED if row.codec and row.codec == digest(SHIPPED) else ""
        if row.codec and row.codec != digest(self._options.codec):
            message = (
                f"the masks were written with the codec {row.codec}, but `codec` names {self._options.codec} "
                f"({digest(self._options.codec)}): they would decode to other shapes. Name the codec that wrote them."
            )
            self._find("codec-differs", Severity.ERROR, message, row.place)
        return self._options.codec

    def _read(self, lines: list[ParsedLine]) -> dict[TokenObject, str]:
        """The objects of all lines and where each stands, every object once."""
        found: dict[TokenObject, str] = {}
        for row in lines:
            answer = parse(row.suffix)
            for unread in answer.unread:
                self._report_unread(unread, row)
            for one in answer.objects:
                if one in found:
                    message = f"the same object is in {found[one]}; kept once"
                    self._find("annotation-duplicate", Severity.REPAIRED, message, row.place)
                found.setdefault(one, row.place)
        return found

    def _report_unread(self, unread: UnreadPiece, row: ParsedLine) -> None:
        is_empty = unread.failure is Failure.INVALID_BOX
        code, severity = ("box-empty", Severity.SKIPPED) if is_empty else ("object-malformed", Severity.ERROR)
        message = f"`{unread.text:.80}` is no object: {_REASONS[unread.failure]}"
        self._find(code, severity, message, row.place)

    def _find(self, code: str, severity: Severity, message: str, place: str) -> None:
        self._report(finding(code, message, file=self._file, image=self._image_id, annotation=place, severity=severity))


def _instance(one: TokenObject, codec: str, size_hw: tuple[int, int], options: Options) -> Instance | None:
    """An object in pixels: with its mask where a codec is known; None where that has no pixel."""
    scale: Scale = options.loc_scale
    box_xyxy = decode_box(one.bins, size_hw=size_hw, scale=scale)
    if one.codes is None or not codec:
        return Instance(one.label, None, box_xyxy)
    from segdist.nets.paligemma.codec_files import open_codec
    from segdist.nets.paligemma.objects import to_instances

    (found,) = to_instances([one], size_hw=size_hw, codec=open_codec(codec), scale=scale, edges=options.edges)
    return found
