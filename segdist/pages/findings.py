"""The findings of a review as a page, with pictures of the worst: errors first, some of every code."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from segdist.checking.validation import Review
from segdist.core.errors import DataError, StorageError
from segdist.core.panels import ImageHWC, overlay
from segdist.core.plugins import DatasetFormat
from segdist.core.records import Finding, Sample
from segdist.core.text import counted
from segdist.pages.base import Figure, Section, picture, write_page
from segdist.reading.codes import CODES
from segdist.reading.examples import decode_image

PICTURES_PER_CODE = 4
MOST_PICTURES = 48


def write_review_page(uri: str, found: Review, source: DatasetFormat | None) -> None:
    """Write the page; pictures show the image with what could be read of its annotations.

    Args:
        uri: where.
        found: the review.
        source: what was reviewed; None where it could not even be opened.
    """
    chosen = _chosen(found.findings)
    samples = _samples(source, {f.image for f in chosen}) if source else {}
    by_code = {key: found.counts[key] for key in dict.fromkeys((f.severity, f.code) for f in found.findings)}
    table = Section(
        "Findings",
        header=("finding", "count"),
        rows=[
            (f"{severity}: {code} - {CODES[code].meaning if code in CODES else ''}", n)
            for (severity, code), n in by_code.items()
        ],
        note="" if by_code else "There is nothing to say.",
    )
    balance = Section(
        "Splits",
        header=("split", "images", "instances", "masks", "without objects"),
        rows=[(n or "none", c.images, c.instances, c.masks, c.empty_images) for n, c in found.splits.items()],
    )
    worst = [s for s in _by_code(chosen, samples, source, found.classes) if s.figures or s.rows]
    note = f"{found.format_name}: {counted(found.images, 'image')}, {counted(found.instances, 'instance')}. "
    note += "No error." if found.ok else "There are errors."
    write_page(uri, "Review of annotations", [balance, table, *worst], note=note, classes=found.classes)


def _chosen(findings: Sequence[Finding]) -> list[Finding]:
    """Some findings of each code, of different images."""
    kept: list[Finding] = []
    seen: Counter[str] = Counter()
    images: set[tuple[str, str]] = set()
    for one in findings:
        if (one.code, one.image) not in images and seen[one.code] < PICTURES_PER_CODE and len(kept) < MOST_PICTURES:
            kept.append(one)
            seen[one.code] += 1
            images.add((one.code, one.image))
    return kept


def _samples(source: DatasetFormat, wanted: set[str]) -> dict[str, Sample]:
    found: dict[str, Sample] = {}
    try:
        for piece in source.chunks(lambda _: None):
            found.update({s.image_id: s for s in piece.samples(lambda _: None) if s.image_id in wanted})
            if len(found) == len(wanted - {""}):
                break
    except (DataError, StorageError):
        pass  # it is among the findings
    return found


def _by_code(
    chosen: Sequence[Finding], samples: dict[str, Sample], source: DatasetFormat | None, classes: Sequence[str]
) -> Iterator[Section]:
    for code in dict.fromkeys(f.code for f in chosen):
        members = [f for f in chosen if f.code == code]
        figures = [
            Figure(picture(shown), f.image or f.file, _said(f))
            for f in members
            if source and (shown := _drawn(source, samples.get(f.image), classes)) is not None
        ]
        rows = [(f"{f.image or f.file}: {_said(f)}",) for f in members if len(figures) < len(members)]
        yield Section(f"{members[0].severity}: {code}", header=("where",) if rows else (), rows=rows, figures=figures)


def _said(one: Finding) -> str:
    return (f"annotation {one.annotation}: " if one.annotation else "") + one.message


def _drawn(source: DatasetFormat, sample: Sample | None, classes: Sequence[str]) -> ImageHWC | None:
    if sample is None:
        return None
    try:
        image_HWC = decode_image(source.image_bytes(sample), name=sample.image_id)
    except (DataError, StorageError):
        return None
    if image_HWC.shape[:2] != sample.size_hw:
        return image_HWC
    return overlay(np.ascontiguousarray(image_HWC), sample.instances, classes, labels=False)
