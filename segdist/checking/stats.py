"""What a data set looks like in numbers: classes, sizes, shapes, brightness, objects an image; by split."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from segdist.checking.dataset_text import table
from segdist.checking.histograms import Histogram, Scale
from segdist.core.errors import DataError, StorageError
from segdist.core.json_values import JsonDict
from segdist.core.plugins import DatasetFormat, ImageHWC, Piece
from segdist.core.records import Finding, Instance, Sample
from segdist.core.text import counted
from segdist.datasets.parallel import ordered_map
from segdist.datasets.shards import SplitCounts, added_counts, count_samples
from segdist.datasets.sizes import area_of
from segdist.datasets.split import balance
from segdist.reading.codes import finding
from segdist.reading.examples import decode_image

_SIDES = (0, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_LUMA = (0.299, 0.587, 0.114)
_THUMBNAIL = 128
BAR = 40
"""Characters of the longest bar in the terminal."""

SIZE = Scale(
    "Size of objects",
    "side in pixels of a square of the same area",
    (*_SIDES, math.inf),
    (*(f"{low}-{high}" for low, high in pairwise(_SIDES)), ">1024"),
)
ASPECT = Scale(
    "Shape of objects",
    "width / height of the box",
    (0, 1 / 8, 1 / 4, 1 / 2, 1 / 1.25, 1.25, 2, 4, 8, math.inf),
    ("<1:8", "1:8-1:4", "1:4-1:2", "1:2-4:5", "about 1:1", "5:4-2:1", "2:1-4:1", "4:1-8:1", ">8:1"),
)
BRIGHTNESS = Scale(
    "Brightness of images",
    "mean luma (Rec. 601), 0 black, 255 white",
    tuple(range(0, 257, 16)),
    tuple(f"{v}-{v + 15}" for v in range(0, 256, 16)),
)
CROWDING = Scale(
    "Objects in an image",
    "objects",
    (0, 1, 2, 3, 5, 9, 17, 33, 65, math.inf),
    ("0", "1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", ">64"),
)
SCALES = {"size": SIZE, "aspect": ASPECT, "brightness": BRIGHTNESS, "objects": CROWDING}


@dataclass
class Statistics:
    """Of a data set, or a piece of it.

    Attributes:
        splits: counts of each split.
        histograms: by name, see `SCALES`.
        findings: what could not be counted, and why.
    """

    splits: dict[str, SplitCounts] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=lambda: {n: Histogram(s) for n, s in SCALES.items()})
    findings: list[Finding] = field(default_factory=list)

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(c.images for c in self.splits.values())

    @property
    def instances(self) -> int:
        """How many instances there are."""
        return sum(c.instances for c in self.splits.values())

    @property
    def per_class(self) -> Counter[str]:
        """Instances of each class, the most frequent first."""
        total: Counter[str] = Counter()
        for counts in self.splits.values():
            total.update(counts.per_class)
        return Counter(dict(sorted(total.items(), key=lambda item: (-item[1], item[0]))))

    def as_json(self) -> JsonDict:
        """What `segdist data stats --json` prints."""
        names = list(self.splits)
        edgeless = {name: dict(h.as_json(names)) for name, h in self.histograms.items()}
        for found in edgeless.values():
            found["edges"] = [e if math.isfinite(e) else None for e in found["edges"]]
        return {
            "images": self.images,
            "instances": self.instances,
            "classes": dict(self.per_class),
            "splits": {name: counts.model_dump() for name, counts in self.splits.items()},
            "histograms": edgeless,
            "not_counted": [str(f) for f in self.findings],
        }


@dataclass(frozen=True)
class _Work:
    source: DatasetFormat
    piece: Piece
    open_images: bool


def statistics(source: DatasetFormat, *, open_images: bool = True) -> Statistics:
    """Look at every sample of a source.

    Args:
        source: what to read; what is wrong with it is for `segdist data validate` to say.
        open_images: also decode every image, for its brightness.
    """
    found = Statistics()
    errors: list[Finding] = []
    works = (_Work(source, piece, open_images) for piece in source.chunks(errors.append))
    for part in ordered_map(_look_at, works):
        found.splits = added_counts([found.splits, part.splits])
        found.findings += part.findings
        for name, histogram in part.histograms.items():
            found.histograms[name].add_all(histogram)
    return found


def _look_at(work: _Work) -> Statistics:
    found = Statistics()
    samples = list(work.piece.samples(lambda _: None))
    for sample in samples:
        _count(found.histograms, sample)
        if work.open_images:
            try:
                image_HWC = decode_image(work.source.image_bytes(sample), longest=_THUMBNAIL, name=sample.image_id)
                found.histograms["brightness"].add(sample.split, brightness(image_HWC))
            except (DataError, StorageError) as error:
                found.findings.append(
                    finding("image-unreadable", str(error), file=sample.image_uri, image=sample.image_id)
                )
    found.splits = {n: count_samples([s for s in samples if s.split == n]) for n in {s.split for s in samples}}
    return found


def _count(histograms: dict[str, Histogram], sample: Sample) -> None:
    histograms["objects"].add(sample.split, len(sample.instances))
    for instance in sample.instances:
        histograms["size"].add(sample.split, math.sqrt(area_of(instance)))
        if (ratio := _aspect(instance)) is not None:
            histograms["aspect"].add(sample.split, ratio)


def _aspect(instance: Instance) -> float | None:
    """Width by height of the box as annotated; None for one of no height."""
    x1, y1, x2, y2 = instance.box_xyxy
    return (x2 - x1) / (y2 - y1) if y2 > y1 else None


def brightness(image_HWC: ImageHWC) -> float:
    """Mean luma in 0..255, by the weights of ITU-R BT.601."""
    return float(image_HWC.reshape(-1, 3).mean(axis=0) @ _LUMA)


def summary_text(found: Statistics) -> str:
    """Tables and bars for the terminal."""
    header, rows = balance(found.splits)
    lines = [
        (
            f"{counted(found.images, 'image')}, {counted(found.instances, 'instance')}, "
            f"{counted(len(found.per_class), 'class')}"
        )
    ]
    lines += table([header, *rows])
    lines += ["", "Classes", *_bars(list(found.per_class), list(found.per_class.values()))]
    for histogram in found.histograms.values():
        if histogram.counts:
            title = f"{histogram.scale.title} ({histogram.scale.unit})"
            lines += ["", title, *_bars(histogram.scale.labels, histogram.totals())]
    if found.findings:
        lines += [
            "",
            f"{counted(len(found.findings), 'image was', 'images were')} not opened; the first: {found.findings[0]}",
        ]
    return "\n".join(lines)


def _bars(labels: Sequence[str], values: Sequence[int]) -> list[str]:
    longest = max(values, default=0) or 1
    bars = ["█" * round(BAR * v / longest) or ("▏" if v else "") for v in values]
    width = max((len(label) for label in labels), default=0)
    return [f"  {label:>{width}}  {value:>7}  {bar}" for label, value, bar in zip(labels, values, bars, strict=True)]
