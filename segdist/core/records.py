"""The values that flow: truth, pseudo-label and prediction are all a tuple of instances.

Frames: pixels of the image at its own size, x to the right, y down. `size_hw` is (height, width).
`box_xyxy` is (x1, y1, x2, y2) in pixels, x2 and y2 exclusive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, NotRequired, Self, TypedDict

import numpy as np
from pycocotools import mask as coco_mask

from segdist.core import extras
from segdist.core.errors import SpecError

if TYPE_CHECKING:
    import supervision

Box = tuple[float, float, float, float]
"""`box_xyxy`."""
HUMAN = "human"
MAX_PIXELS = 178_956_970
"""Larger images are refused before anything is made at their size: a few bytes can claim terabytes. It is twice what
Pillow warns of, and where Pillow refuses too."""


class CocoRle(TypedDict):
    """Run lengths as pycocotools takes them: (height, width), and its compressed counts."""

    size: list[int]
    counts: bytes


class CocoSegmentation(TypedDict):
    """The same in a JSON file."""

    size: list[int]
    counts: str


class CocoAnnotation(TypedDict):
    """An annotation as COCO writes it; `segmentation` is an empty list where only a box is known."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: CocoSegmentation | list[float]
    score: NotRequired[float]


class CocoImage(TypedDict):
    """An image as COCO writes it."""

    id: int
    file_name: str
    height: int
    width: int


class CocoCategory(TypedDict):
    """A class as COCO writes it."""

    id: int
    name: str


class CocoFile(TypedDict):
    """A file of COCO's."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


@dataclass(frozen=True)
class Rle:
    """A binary mask as compressed COCO run lengths: column-major, zeros first.

    Attributes:
        size_hw: height and width of the image in pixels.
        counts: the compressed counts of the COCO format.

    Build one with `masks.encode` or, from outside, `masks.from_coco`, which checks that the counts fit the size.
    """

    size_hw: tuple[int, int]
    counts: bytes

    def __post_init__(self) -> None:
        self.checked(self.size_hw)

    @staticmethod
    def checked(size_hw: tuple[int, int]) -> tuple[int, int]:
        """The same height and width.

        Raises:
            ValueError: they are none of an image that can be read.
        """
        height, width = size_hw
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise ValueError(f"`size_hw` must be positive and of at most {MAX_PIXELS:,} pixels, but got {size_hw}")
        return height, width

    @classmethod
    def measured(cls, size_hw: tuple[int, int], counts: bytes, area: int) -> Self:
        """A mask whose area is known, so that it need not be counted again."""
        rle = cls(size_hw, counts)
        rle.__dict__["area"] = area  # where `cached_property` keeps it
        return rle

    @property
    def coco(self) -> CocoRle:
        """The dictionary that pycocotools and faster-coco-eval take."""
        return {"size": list(self.size_hw), "counts": self.counts}

    @cached_property
    def area(self) -> int:
        """Number of pixels set, without decoding."""
        return int(coco_mask.area(self.coco))

    @cached_property
    def box_xyxy(self) -> Box:
        """The tight box around the pixels set, without decoding; all zeros for an empty mask."""
        x, y, w, h = (float(v) for v in coco_mask.toBbox(self.coco))
        return x, y, x + w, y + h


class Verdict(StrEnum):
    """What becomes of a pseudo-label."""

    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


@dataclass(frozen=True)
class Evidence:
    """What speaks for a pseudo-label, kept beside it.

    Attributes:
        verdict: whether it is learned from, shown to a person, or dropped.
        proposed: the mask of a pseudo-label that was not accepted; `Instance.mask` is None there.
        unsure: pixels at the edge of an accepted mask on which prompts disagree; training ignores them.
        predicted_iou: what the teacher expects its mask's IoU to be; None where it does not say.
        stability: IoU of the mask at a lower and a higher threshold (Kirillov et al. 2023, appendix B); None likewise.
        agreement: mean pairwise IoU of the masks of several prompts; None where there was one.
    """

    verdict: Verdict = Verdict.ACCEPT
    proposed: Rle | None = None
    unsure: Rle | None = None
    predicted_iou: float | None = None
    stability: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Instance:
    """One object, or one region of a "stuff" class, in one image.

    Attributes:
        label: the class name.
        mask: None where only a box is known (a detection data set, an abstaining teacher).
        box_xyxy: the box as annotated, in pixels.
        score: 1 for human truth; otherwise the teacher's or model's confidence in 0..1.
        is_crowd: a region of many objects that are not separated; ignored in training.
        evidence: of a pseudo-label, what speaks for it; None for human truth.
    """

    label: str
    mask: Rle | None
    box_xyxy: Box
    score: float = 1.0
    is_crowd: bool = False
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.box_xyxy
        if not (x1 <= x2 and y1 <= y2):
            raise ValueError(f"`x1 <= x2 and y1 <= y2` must hold, but got box_xyxy={self.box_xyxy}")

    def to_coco(self, *, number: int, image_id: int, category_id: int) -> CocoAnnotation:
        """As COCO writes it; `segmentation` is run lengths, or an empty list where only a box is known.

        `score` is there for pseudo-labels only; COCO gives it a meaning in results.
        """
        x1, y1, x2, y2 = self.box_xyxy
        mask = self.mask
        found: CocoAnnotation = {
            "id": number,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": mask.area if mask else (x2 - x1) * (y2 - y1),
            "iscrowd": int(self.is_crowd),
            "segmentation": {"size": list(mask.size_hw), "counts": mask.counts.decode("ascii")} if mask else [],
        }
        return found if self.score == 1 else {**found, "score": self.score}


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it; no pixels inside.

    Attributes:
        image_id: unique in its data set.
        image_uri: where the image came from.
        size_hw: height and width in pixels, as decoded with the EXIF orientation applied.
        instances: truth or pseudo-labels.
        split: "train", "val", "test", or "" before splitting.
        group: samples of one group never part in a split (copies of one source image, one building).
        source: "human", or the id of the label policy that made the instances.
        text: what is looked for in the image, in words; "" where the class names say it.
    """

    image_id: str
    image_uri: str
    size_hw: tuple[int, int]
    instances: tuple[Instance, ...] = ()
    split: str = ""
    group: str = ""
    source: str = HUMAN
    text: str = ""


LabelledImage = tuple[Sample, bytes]
"""The truth of an image, and the image as its file has it."""
LabelledImages = Sequence[LabelledImage]


@dataclass(frozen=True)
class Prompt:
    """What a promptable model is shown of one image.

    Attributes:
        boxes_xyxy: one box an object, in pixels.
        labels: the class name of each box; the predictions come back in this order with these labels.
        points_xy: for each object, its points in pixels.
        point_is_object: for each point, True for "on the object", False for "off".
        text: a phrase to look for, for models that read; boxes beside it are examples of what is meant.
    """

    boxes_xyxy: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    points_xy: tuple[tuple[tuple[float, float], ...], ...] = ()
    point_is_object: tuple[tuple[bool, ...], ...] = ()
    text: str = ""

    def __post_init__(self) -> None:
        if self.boxes_xyxy and len(self.labels) != len(self.boxes_xyxy):
            raise ValueError(f"one label a box must hold, but got {len(self.boxes_xyxy)} and {len(self.labels)}")


@dataclass(frozen=True)
class Prediction:
    """What a model found in one image.

    Attributes:
        image_id: of the sample.
        instances: what it found.
        seconds: that it took.
        text: what it was asked and wrote, where it writes.
        size_hw: height and width of the image in pixels; (0, 0) where nobody needs them.
        classes: of the model, in its order; empty where nobody needs them.
    """

    image_id: str
    instances: tuple[Instance, ...]
    seconds: float = 0.0
    text: str = ""
    size_hw: tuple[int, int] = (0, 0)
    classes: tuple[str, ...] = ()

    def to_coco(self) -> CocoFile:
        """A COCO file of this one image, as `segdist predict` writes it of all: `images`, `annotations`, `categories`.

        Categories are numbered from 1, in the order of `classes`; each annotation has its `score`.
        """
        height, width = self.size_hw
        ids = {name: number for number, name in enumerate(self.classes, 1)}
        return {
            "images": [{"id": 1, "file_name": self.image_id, "height": height, "width": width}],
            "annotations": [
                {**i.to_coco(number=n, image_id=1, category_id=ids[i.label]), "score": round(i.score, 5)}
                for n, i in enumerate(self.instances, 1)
            ],
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
        }

    def to_supervision(self) -> "supervision.Detections":
        """The detections of the library supervision: boxes, masks, scores, and classes numbered from 0.

        Its `CompactMask` holds the masks as run lengths, in little memory; `.mask.to_dense()` makes an array of them.

        Raises:
            SpecError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise SpecError(extras.needs("`to_supervision`", "supervision")) from error
        boxes_xyxy = np.array([i.box_xyxy for i in self.instances], np.float32).reshape(-1, 4)
        empty = coco_mask.encode(np.zeros(self.size_hw, np.uint8, order="F"))
        rles = [i.mask.coco if i.mask else empty for i in self.instances]
        pixels_xyxy = np.array([i.mask.box_xyxy if i.mask else (0, 0, 1, 1) for i in self.instances], np.float32)
        last_xyxy = pixels_xyxy.reshape(-1, 4) - np.array([0, 0, 1, 1], np.float32)  # it counts the last pixel in
        return supervision.Detections(
            xyxy=boxes_xyxy,
            mask=supervision.CompactMask.from_coco_rle(rles, last_xyxy, self.size_hw),
            confidence=np.array([i.score for i in self.instances], np.float32),
            class_id=np.array([self.classes.index(i.label) for i in self.instances], np.int64),
            data={"class_name": np.array([i.label for i in self.instances], np.str_)},
        )


class Severity(StrEnum):
    """What happened because of a finding."""

    ERROR = "error"
    REPAIRED = "repaired"
    SKIPPED = "skipped"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """Something wrong in the data: where it is, and what was done about it."""

    code: str
    severity: Severity
    message: str
    file: str = ""
    image: str = ""
    annotation: str = ""

    def __str__(self) -> str:
        place = ", ".join(
            f"{what} {where}"
            for what, where in (("", self.file), ("image", self.image), ("annotation", self.annotation))
            if where
        )
        text = f"{self.severity}[{self.code}] {place.strip()}: {self.message}"
        return text.replace("\n", "\n  ")  # a name with a line break must not look like a finding of its own


ReportFinding = Callable[[Finding], None]
"""Takes what a reader, a writer or a check has noticed."""
