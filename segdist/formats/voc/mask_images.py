"""SegmentationObject and SegmentationClass: numbers or colours that are joined with the objects of the XML file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from segdist.core import masks, storage
from segdist.core.errors import DataError
from segdist.core.records import Instance, ReportFinding, Rle, Severity
from segdist.core.text import NotTextError, lines
from segdist.reading.class_names import ClassNames
from segdist.reading.codes import finding
from segdist.reading.geometry import UnusableAnnotation, box_iou
from segdist.reading.label_maps import DecodedLabelMap, decode_values, rles_by_value
from segdist.reading.listing import Listing
from segdist.reading.text_files import read_text

OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"
MASK_FOLDERS = (OBJECTS, CLASSES)
SAME_BOX = 0.5
"""IoU of the box of a region and the box of an object from which they are the same; VOC's boxes are a pixel off."""
VOID = (255, 0xE0E0C0)
"""The border between objects, as a number and as the colour of VOC's palette; it belongs to nothing."""
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class MaskImages:
    """The mask images of a data set."""

    def __init__(self, files: Listing, classes: Mapping[int, str], names: ClassNames, report: ReportFinding) -> None:
        self._files, self._names, self._report = files, names, report
        self._by_stem = {
            kind: {PurePosixPath(n).stem: n for n in files.images if kind in PurePosixPath(n).parts[:-1]}
            for kind in MASK_FOLDERS
        }
        self._broken = {
            PurePosixPath(n).stem: reason
            for n, reason in files.broken.items()
            if set(MASK_FOLDERS) & set(PurePosixPath(n).parts)
        }
        self._colours = _labelmap(files, report)
        self._classes = dict(classes) or dict(enumerate(VOC_CLASSES, 1))

    def files(self) -> list[str]:
        """Their paths."""
        return [name for found in self._by_stem.values() for name in found.values()]

    def has(self, image: str) -> bool:
        """Whether an image has a mask image of either kind."""
        return any(PurePosixPath(image).stem in found for found in self._by_stem.values())

    def why_broken(self, image: str) -> str:
        """Why a mask image of an image is there and cannot be read; "" where it can, or there is none."""
        return self._broken.get(PurePosixPath(image).stem, "") or next(
            (reason for folder in MASK_FOLDERS if (reason := self._broken.get(folder))), ""
        )

    def joined(
        self, image: str, objects: Sequence[tuple[Instance | None, str]], size_hw: tuple[int, int]
    ) -> Iterator[tuple[Instance, str]]:
        """The objects of the XML file with their masks, then what the mask images hold beside them.

        Args:
            image: path of the image.
            objects: instance (None where it cannot be used) and name of each object, in the order of the file.
            size_hw: of the image.
        """
        regions = self._regions(OBJECTS, image, size_hw)
        if regions is None:
            yield from ((one, name) for one, name in objects if one)
            if not objects:
                yield from self._class_regions(image, size_hw)
            elif name := self._by_stem[CLASSES].get(PurePosixPath(image).stem):
                message = "a mask of classes does not tell its objects apart; their boxes are read, the mask is not"
                self._report(finding("masks-unread", message, file=self._files.uri(name), image=image))
            return
        taken: dict[int, Rle] = {}
        for number, rle in regions.items():
            place = _matching(number, rle, objects, taken)
            if place is not None:
                taken[place] = rle
            elif not _unusable(number, objects):
                yield from self._unlisted(image, number, rle, size_hw)
        for place, (one, name) in enumerate(objects):
            if one:
                yield (replace(one, mask=taken[place]) if place in taken else one), name

    def _unlisted(self, image: str, number: int, rle: Rle, size_hw: tuple[int, int]) -> Iterator[tuple[Instance, str]]:
        """A region without an object: its class is the one that most of its pixels have."""
        decoded = self._decoded(CLASSES, image, size_hw)
        label = ""
        if decoded:
            values, counts = np.unique(decoded.values_HW[masks.decode(rle)], return_counts=True)
            label = self._label(int(values[counts.argmax()]), decoded)
        if label:
            yield Instance(label, rle, rle.box_xyxy), f"region {number}"
            return
        message = f"the mask holds region {number}, which fits no object of the XML file and has no class"
        uri = self._files.uri(self._by_stem[OBJECTS][PurePosixPath(image).stem])
        self._report(finding("instance-unknown", message, file=uri, image=image, annotation=f"region {number}"))

    def _class_regions(self, image: str, size_hw: tuple[int, int]) -> Iterator[tuple[Instance, str]]:
        """One instance a class, where only classes are known."""
        decoded = self._decoded(CLASSES, image, size_hw)
        for number, rle in rles_by_value(decoded.values_HW).items() if decoded else ():
            if number in VOID:
                continue
            if label := self._label(number, decoded):
                yield Instance(label, rle, rle.box_xyxy), f"class {number}"
                continue
            what = f"#{number:06x}" if decoded and decoded.is_colour else number
            message = f"the mask holds {what}, which is no class; add it to `classes` or labelmap.txt"
            uri = self._files.uri(self._by_stem[CLASSES][PurePosixPath(image).stem])
            self._report(finding("category-unknown", message, file=uri, image=image, annotation=str(what)))

    def _label(self, number: int, decoded: DecodedLabelMap | None) -> str:
        names = self._colours if decoded and decoded.is_colour else self._classes
        name = names.get(number, "")
        return self._names(name, self._files.root) if name else ""

    def _regions(self, kind: str, image: str, size_hw: tuple[int, int]) -> Mapping[int, Rle] | None:
        decoded = self._decoded(kind, image, size_hw)
        if decoded is None:
            return None
        return {n: rle for n, rle in rles_by_value(decoded.values_HW).items() if n not in VOID}

    def _decoded(self, kind: str, image: str, size_hw: tuple[int, int]) -> DecodedLabelMap | None:
        """The mask image of an image; None where it has none.

        Raises:
            Problem: it cannot be used.
        """
        name = self._by_stem[kind].get(PurePosixPath(image).stem)
        if name is None:
            return None
        uri = self._files.uri(name)
        content = storage.read_bytes(uri)
        try:
            decoded = decode_values(content, colours=bool(self._colours) and kind == CLASSES, name=f"the mask {name}")
        except DataError as error:
            raise UnusableAnnotation("mask-unreadable", Severity.ERROR, str(error)) from None
        if decoded.note:
            self._report(finding("mask-palette", decoded.note, file=uri, image=image))
        if decoded.is_lossy:
            raise UnusableAnnotation(
                "mask-lossy", Severity.ERROR, f"numbers do not survive in the JPEG {name}; export it as PNG"
            )
        if decoded.values_HW.shape != size_hw:
            message = f"the mask {name} has (h, w) {decoded.values_HW.shape}, but its image {size_hw}; export it again"
            raise UnusableAnnotation("mask-unreadable", Severity.ERROR, message)
        return decoded


def _matching(
    number: int, rle: Rle, objects: Sequence[tuple[Instance | None, str]], taken: Mapping[int, Rle]
) -> int | None:
    """The place of the object that a region belongs to: the one of its number, or else the one whose box fits best."""
    fits = {
        place: box_iou(one.box_xyxy, rle.box_xyxy)
        for place, (one, _) in enumerate(objects)
        if one and place not in taken
    }
    if fits.get(number - 1, 0.0) >= SAME_BOX:
        return number - 1
    best = max(fits, key=lambda place: fits[place], default=None)
    return best if best is not None and fits[best] >= SAME_BOX else None


def _unusable(number: int, objects: Sequence[tuple[Instance | None, str]]) -> bool:
    """Whether a region is that of an object that was left out, which has been reported."""
    return 0 < number <= len(objects) and objects[number - 1][0] is None


def _labelmap(files: Listing, report: ReportFinding) -> Mapping[int, str]:
    """Class name by colour as 0xRRGGBB from labelmap.txt, as CVAT writes it: `name:r,g,b:parts:actions`."""
    places = [n for n in files if PurePosixPath(n).name == "labelmap.txt"]
    found: dict[int, str] = {}
    try:
        text = read_text(files.uri(places[0]), report) if places else ""
    except NotTextError as error:
        raise DataError(f"{files.uri(places[0])}: {error}. Export it again.") from None
    for line in lines(text):
        name, _, rest = line.partition(":")
        colour = rest.partition(":")[0].split(",")
        if not line.startswith("#") and len(colour) == 3 and all(c.strip().isdigit() for c in colour):
            red, green, blue = (int(c) for c in colour)
            if (red, green, blue) != (0, 0, 0):
                found[red << 16 | green << 8 | blue] = name.strip()
    return found
