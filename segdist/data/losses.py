"""What formats cannot hold, in one vocabulary: every loss is a finding with image and number of the instance."""

from collections.abc import Iterator

from segdist.data.codes import finding
from segdist.data.listing import Report
from segdist.records import Instance, Sample, Severity


class Losses:
    """Reports what a writer leaves out (skipped) or holds only nearly (a warning)."""

    def __init__(self, format_name: str, report: Report) -> None:
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
