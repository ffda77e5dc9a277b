"""The instances of an image as they are read: repeated ones left out, missing masks reported where others have one."""

from collections.abc import Hashable, Iterable

from segdist.core.records import Instance, ReportFinding, Severity
from segdist.core.text import counted
from segdist.reading.codes import Noted, finding

MOST_HELD = 1000
"""Missing masks that are remembered by name until the first mask comes."""


def identity(instance: Instance) -> Hashable:
    """What two annotations of one image must share to say the same: class, outline and box."""
    return instance.label, instance.mask.counts if instance.mask else b"", instance.box_xyxy


class MissingMasks:
    """Reports instances without a mask in a source that has masks; in a source of boxes there is nothing to report."""

    def __init__(self, report: ReportFinding) -> None:
        self._report = report
        self._held: list[tuple[str, str, str]] = []
        self._more = 0
        self._has_masks = False

    def note(self, instance: Instance, *, file: str, image: str, name: str) -> None:
        """Take note of an instance."""
        if instance.mask is not None:
            self._has_masks = True
            for place in self._held:
                self._tell(*place)
            self._held.clear()
        elif self._has_masks:
            self._tell(file, image, name)
        elif len(self._held) < MOST_HELD:
            self._held.append((file, image, name))
        else:
            self._more += 1

    def close(self) -> None:
        """Tell what was too much to remember."""
        if self._has_masks and self._more:
            message = (
                f"{counted(self._more, 'more annotation', 'more annotations')} with a box and no "
                f"mask before the first mask"
            )
            self._report(finding("mask-missing", message))

    def _tell(self, file: str, image: str, name: str) -> None:
        message = "it has a box and no mask: it needs a pseudo-label"
        self._report(finding("mask-missing", message, file=file, image=image, annotation=name))


class Collected:
    """The instances of one image."""

    def __init__(self, file: str, image: str, report: ReportFinding, missing: MissingMasks | None = None) -> None:
        self._file, self._image, self._report, self._missing = file, image, report, missing
        self._seen: set[Hashable] = set()
        self.instances: list[Instance] = []

    def add(self, instance: Instance | None, name: str, notes: Iterable[Noted] = ()) -> None:
        """Take an instance, or None where it cannot be used, and report what there is to say about it.

        Args:
            instance: as it was read.
            name: of the annotation, for messages.
            notes: code, severity and message of what was noticed.
        """
        for code, severity, message in notes:
            self.note(code, message, name, severity)
        if instance is None:
            return
        if identity(instance) in self._seen:
            self.note("annotation-duplicate", f"the image has the same {instance.label} twice; one is left out", name)
            return
        self._seen.add(identity(instance))
        if self._missing:
            self._missing.note(instance, file=self._file, image=self._image, name=name)
        self.instances.append(instance)

    def note(self, code: str, message: str, name: str = "", severity: Severity | None = None) -> None:
        """Report something about an annotation of the image."""
        self._report(finding(code, message, file=self._file, image=self._image, annotation=name, severity=severity))
