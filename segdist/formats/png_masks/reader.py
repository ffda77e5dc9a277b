"""Mask images in: every number that is found has a class, or is a finding."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from segdist.core import masks, storage
from segdist.core.errors import DataError
from segdist.core.records import Finding, Instance, ReportFinding, Rle, Sample, Severity
from segdist.formats.png_masks.tables import (
    INSTANCES,
    ImageTable,
    Key,
    Kinds,
    MaskKind,
    number_of,
    read_instances,
    read_kinds,
)
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import finding
from segdist.reading.geometry import clip_box
from segdist.reading.image_formats import IMAGE_SUFFIXES
from segdist.reading.label_maps import DecodedLabelMap, LabelMap, components, decode_values, rles_by_value
from segdist.reading.listing import (
    FolderFormat,
    FolderOptions,
    Listing,
    source_stem,
    split_of,
    stem_of,
    swap_folder,
    upright_size_hw,
)
from segdist.reading.looks import report_unread


class Options(FolderOptions):
    """Where the mask images lie and what their numbers mean."""

    path: str
    """The folder with the images and masks."""
    kind: MaskKind | Literal["as masks.json says"] = "as masks.json says"
    """binary: anything set is an object of one class. class_id: a number a class. instance_id: a number an object."""
    classes: dict[Key, str] = {}
    """Class name by number, or by colour as "#rrggbb"; for binary masks one name, e.g. {1: crack}."""
    divisor: int = Field(default=0, ge=0)
    """For instance_id: class = number // divisor, as in Cityscapes (1000); 0: all objects are of the one class."""
    ignore: tuple[int, ...] = ()
    """Numbers that are no class, such as the 255 along the edges of Pascal VOC's."""
    components: bool = False
    """Whether each connected region of a class is an object of its own."""
    images: str = "images"
    """Name of the folder of the images; "" where masks lie beside them."""
    masks: str = "masks"
    """Name of the folder of the masks; "" where they lie beside the images."""
    mask_suffix: str = ""
    """What the name of a mask has behind its image's, e.g. `_mask`."""

    @field_validator("classes")
    @classmethod
    def _keys_are_numbers_or_colours(cls, classes: dict[Key, str]) -> dict[Key, str]:
        for key in classes:
            try:
                number_of(key)
            except ValueError:
                raise ValueError(
                    f"a key of `classes` must be a number or a colour as #rrggbb, but is {key!r}"
                ) from None
        return classes


class Format(FolderFormat[Options]):
    """Reads mask images; the frame is the mask's own, so that a photo that EXIF turns is turned with it."""

    def read(self, report: ReportFinding) -> Iterator[Sample]:
        """Every image. One without a mask is reported, and taken as one without objects."""
        files, options = self.listing(), self.options
        meaning = _Meaning(_kinds(files, options), options, report, files.uri("masks.json"))
        tables = read_instances(files)
        images = [name for name in files.images if _is_image(name, options)]
        _report_masks_without_image(files, images, options, report)
        for image in images:
            sample = self._sample(files, image, tables.get(image), meaning, report)
            if sample:
                yield sample
        masked = {name for image in images for name in _mask_names(files, image, options)}
        listed = {name for table in tables.values() for name in table.masks}
        report_unread(files, {INSTANCES, *masked, *listed}, report)

    def _sample(
        self, files: Listing, image: str, table: ImageTable | None, meaning: "_Meaning", report: ReportFinding
    ) -> Sample | None:
        names = list(table.masks) if table else _mask_names(files, image, self.options)
        if reason := _why_broken(files, image, names, self.options):
            report(finding("mask-unreadable", f"its mask: {reason}", file=files.uri(image), image=image))
            return None
        layers = [layer for name in names if (layer := _decoded(files, name, image, meaning, report))]
        if len(layers) < len(names):
            return None  # reported
        size_hw = layers[0].size_hw if layers else upright_size_hw(files.uri(image), image_id=image, report=report)
        if size_hw is None:
            return None
        if not names and not table:
            message = "there is no mask for it; it is taken as one without objects"
            report(finding("label-file-missing", message, file=files.uri(image), image=image))
        instances = tuple(_from_table(table, layers, size_hw, report) if table else meaning.instances(layers))
        return Sample(image, files.uri(image), size_hw, instances, split_of(image) or "", source_stem(image))


@dataclass(frozen=True)
class _Layer:
    """One decoded mask image."""

    decoded: DecodedLabelMap
    image: str
    uri: str

    @property
    def size_hw(self) -> tuple[int, int]:
        height, width = self.decoded.values_HW.shape
        return height, width

    def finding(self, code: str, message: str, severity: Severity = Severity.ERROR, number: object = "") -> Finding:
        return finding(code, message, file=self.uri, image=self.image, annotation=str(number), severity=severity)


class _Meaning:
    """Turns the numbers of mask images into instances."""

    def __init__(self, kinds: Kinds, options: Options, report: ReportFinding, file: str) -> None:
        names = ClassNames(report)
        self._kinds, self._options, self._report = kinds, options, report
        self.by_colour = any(str(key).startswith("#") for key in kinds.classes)
        self._labels = {number_of(key): names(name, file) for key, name in kinds.classes.items()}

    def instances(self, layers: list[_Layer]) -> Iterator[Instance]:
        """The objects in the masks of one image."""
        for layer in layers:
            for number, rle in self._regions(layer):
                label = self._label(number, layer)
                if label:
                    parts = components(rle) if self._options.components else [rle]
                    yield from (Instance(label, part, part.box_xyxy) for part in parts)

    def _regions(self, layer: _Layer) -> Iterator[tuple[int, Rle]]:
        if self._kinds.kind == "binary":
            mask_HW = self._binary(layer)
            if mask_HW is not None and mask_HW.any():
                yield next(iter(self._labels)), masks.encode(mask_HW)
        elif layer.decoded.is_lossy:
            message = "numbers do not survive in a JPEG; export the mask as PNG"
            self._report(layer.finding("mask-lossy", message))
        else:
            ignored = self._options.ignore
            yield from ((n, rle) for n, rle in rles_by_value(layer.decoded.values_HW).items() if n not in ignored)

    def _label(self, number: int, layer: _Layer) -> str:
        if self._kinds.kind == "instance_id":
            number = number // self._kinds.divisor if self._kinds.divisor else next(iter(self._labels))
        if number not in self._labels:
            what = f"#{number:06x}" if layer.decoded.is_colour else number
            message = f"the mask holds {what}, which is no key of `classes`; add it there or to `ignore`"
            self._report(layer.finding("category-unknown", message, number=what))
        return self._labels.get(number, "")

    def _binary(self, layer: _Layer) -> masks.Mask | None:
        """The pixels set: those above half of the range, in whatever way the two values are written."""
        values_HW = layer.decoded.values_HW
        if layer.decoded.is_colour:
            self._report(layer.finding("mask-not-binary", "a binary mask must be grey, but has colours"))
            return None
        found = np.unique(values_HW)
        threshold = 1
        if len(found) > 2 or (len(found) == 2 and found[0] != 0):
            if found[-1] < 128:
                message = f"a binary mask must hold two values, but holds {_short(found)}; are they classes? set `kind`"
                self._report(layer.finding("mask-not-binary", message))
                return None
            threshold = 128
            message = f"it holds {len(found)} values between {found[0]} and {found[-1]}; those from 128 on are set"
            self._report(layer.finding("mask-not-binary", message, Severity.REPAIRED))
        mask_HW: masks.Mask = values_HW >= threshold
        border = np.r_[mask_HW[0], mask_HW[-1], mask_HW[:, 0], mask_HW[:, -1]]
        if border.all() and not mask_HW.all() and mask_HW.mean() > 0.5:
            message = "it covers the whole border and most of the image; if objects are black, invert it"
            self._report(layer.finding("mask-inverted", message, Severity.WARNING))
        return mask_HW


def _kinds(files: Listing, options: Options) -> Kinds:
    """What the options say, or else masks.json.

    Raises:
        DataError: neither says enough.
    """
    written = read_kinds(files)
    if options.kind == "as masks.json says":
        if written:
            return written
        raise DataError(f"{files.root} has no masks.json. Set `kind` (binary, class_id, instance_id) and `classes`.")
    classes = options.classes or (written.classes if written else {})
    single = options.kind == "binary" or (options.kind == "instance_id" and not options.divisor)
    if not classes or (single and len(classes) != 1):
        rule = "exactly one class" if single else "a name for each number"
        raise DataError(f"`classes` must give {rule}, e.g. {{1: crack}}, but gives {classes or 'none'}.")
    return Kinds(kind=options.kind, classes=classes, divisor=options.divisor)


def _is_image(name: str, options: Options) -> bool:
    folders = PurePosixPath(name).parts[:-1]
    if options.masks and options.masks in folders:
        return False
    is_mask = bool(options.mask_suffix) and PurePosixPath(name).stem.endswith(options.mask_suffix)
    return (not options.images or options.images in folders) and not (is_mask and not options.masks)


def _mask_names(files: Listing, image: str, options: Options) -> list[str]:
    """The mask image of an image, or all in a folder of its name: one for each object."""
    stem = _mask_stem(image, options)
    names = [stem + suffix for suffix in (".png", *IMAGE_SUFFIXES) if stem + suffix in files and stem + suffix != image]
    return names[:1] or [name for name in files.images if name.startswith(f"{stem}/") and name != image]


def _mask_stem(image: str, options: Options) -> str:
    beside = swap_folder(image, options.images, options.masks) if options.images and options.masks else image
    return stem_of(beside or image) + options.mask_suffix


def _why_broken(files: Listing, image: str, names: list[str], options: Options) -> str:
    """Why a mask of an image that is there cannot be read, whether tables name it or its own name does; else ""."""
    stem = _mask_stem(image, options)
    places = [*names, stem, *(stem + suffix for suffix in (".png", *IMAGE_SUFFIXES) if stem + suffix != image)]
    return next((reason for place in places if (reason := files.why_broken(place))), "")


def _decoded(files: Listing, name: str, image: str, meaning: _Meaning, report: ReportFinding) -> _Layer | None:
    uri = files.uri(name)
    try:
        decoded = decode_values(storage.read_bytes(uri), colours=meaning.by_colour, name="the mask")
    except DataError as error:
        report(finding("mask-unreadable", str(error), file=uri, image=image))
        return None
    if decoded.note:
        report(finding("mask-palette", decoded.note, file=uri, image=image))
    return _Layer(decoded, image, uri)


def _from_table(
    table: ImageTable, layers: list[_Layer], size_hw: tuple[int, int], report: ReportFinding
) -> Iterator[Instance]:
    regions: Mapping[int, Rle] = {
        n: rle for layer in layers for n, rle in rles_by_value(layer.decoded.values_HW).items()
    }
    for number in sorted(set(regions) - {one.id for one in table.instances}):
        message = f"the mask holds object {number}, which instances.jsonl does not list"
        report(layers[0].finding("instance-unknown", message, number=number))
    for one in table.instances:
        if one.id and one.id not in regions:
            message = f"instances.jsonl lists object {one.id}, which is in no mask; export the masks again"
            report(finding("mask-empty", message, image=table.image, annotation=str(one.id), severity=Severity.ERROR))
        else:
            box_xyxy = clip_box(one.box_xyxy, size_hw)
            yield Instance(one.label, regions.get(one.id), box_xyxy, score=one.score, is_crowd=one.is_crowd)


def _report_masks_without_image(files: Listing, images: list[str], options: Options, report: ReportFinding) -> None:
    if not options.masks or not options.images:
        return
    known = {stem_of(swap_folder(image, options.images, options.masks) or "") for image in images}
    for name in files.images:
        stem = stem_of(name).partition(".layer")[0].removesuffix(options.mask_suffix)
        is_lonely = stem not in known and str(PurePosixPath(stem).parent) not in known
        if options.masks in PurePosixPath(name).parts[:-1] and is_lonely:
            message = f"there is no image for the mask `{name}`; put it into `{options.images}`, or remove the mask"
            report(finding("image-missing", message, file=files.uri(name), image=name))


def _short(values: LabelMap) -> str:
    shown = ", ".join(map(str, values[:6].tolist()))
    return shown + (", ..." if len(values) > 6 else "")
