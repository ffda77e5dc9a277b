"""What formats cannot hold, in one vocabulary: every loss is a finding with image and number of the instance."""

from collections import Counter
from collections.abc import Iterator

from segdist.core.records import Finding, Instance, ReportFinding, Sample, Severity
from segdist.reading.codes import finding

GONE = {"box-dropped", "class-dropped", "crowd-dropped", "duplicate-dropped", "instance-merged", "mask-coded"}
"""Losses after which an instance may not come back as what it was: not at all, or under another name."""
MASK_CHANGED = {"instance-merged", "mask-coded", "mask-dropped", "overlap-dropped"}
BOX_CHANGED = {"box-from-mask", "box-rounded", "box-widened", "instance-merged", "mask-coded", "overlap-dropped"}


class ReportedLosses:
    """The losses that a writer has reported of each image, by code: what need not come back.

    Args:
        report: takes the findings, too.
    """

    def __init__(self, report: ReportFinding) -> None:
        self._report = report
        self._of: dict[str, Counter[str]] = {}

    def __call__(self, one: Finding) -> None:
        """Take note of a loss."""
        if one.code in GONE | MASK_CHANGED | BOX_CHANGED:
            self._of.setdefault(one.image, Counter())[one.code] += 1
        self._report(one)

    def instances(self, image_id: str) -> int:
        """How many instances of an image may be gone."""
        return sum(count for code, count in self._of.get(image_id, Counter()).items() if code in GONE)

    def masks(self, image_id: str) -> bool:
        """Whether masks of an image may have changed."""
        return bool(MASK_CHANGED & self._of.get(image_id, Counter()).keys())

    def boxes(self, image_id: str) -> bool:
        """Whether boxes of an image may have changed."""
        return bool(BOX_CHANGED & self._of.get(image_id, Counter()).keys())


class Losses:
    """Reports what a writer leaves out (skipped) or holds only nearly (a warning)."""

    def __init__(self, format_name: str, report: ReportFinding) -> None:
        self._format, self._report = format_name, report

    def __call__(self, code: str, message: str, sample: Sample, number: int, *, left_out: bool = False) -> None:
        """Report a loss of one instance, counted from 1."""
        severity = Severity.SKIPPED if left_out else Severity.WARNING
        self._report(finding(code, message, image=sample.image_id, annotation=str(number), severity=severity))

    def plain(self, sample: Sample) -> Iterator[tuple[int, Instance]]:
        """The instances with their numbers, for a format without crowds and scores: both are reported."""
        for number, instance in enumerate(sample.instances, 1):
            if instance.is_crowd:
                message = f"{self._format} has no crowds; the region was left out"
                self("crowd-dropped", message, sample, number, left_out=True)
                continue
            if instance.score != 1:
                message = f"{self._format} has no scores; a pseudo-label looks like a human's there"
                self("score-dropped", message, sample, number)
            yield number, instance

    def box_beside_mask(self, sample: Sample, number: int) -> None:
        """Report a box that differs from its mask's own, where only the mask is written."""
        instance = sample.instances[number - 1]
        if instance.mask is None or instance.mask.area == 0:
            return
        if max(abs(a - b) for a, b in zip(instance.box_xyxy, instance.mask.box_xyxy, strict=True)) > 1e-3:
            message = "beside a mask there is no box; it comes back as the tight box of the mask"
            self("box-from-mask", message, sample, number)
