"""Which format a folder, file or archive is in, where it can be recognised."""

import logging
from typing import Protocol, runtime_checkable

from segdist.core import registry, storage
from segdist.core.errors import DataError
from segdist.core.records import Finding, ReportFinding, Severity
from segdist.reading.archives import is_archive, unpacked
from segdist.reading.codes import finding
from segdist.reading.listing import Listing
from segdist.reading.looks import report_unread

RICHEST_FIRST = ("segdist", "hf_objects", "coco")
"""Formats that hold masks to the pixel, boxes, crowds and scores: read where others stand beside them."""


def _logged(found: Finding) -> None:
    logging.getLogger(__name__).warning("%s", found)


def guess_format(place: str, report: ReportFinding | None = None) -> str:
    """The format that recognises a place; `images` where there are images and nothing else is recognised.

    Tools export the same annotations in several formats side by side. The one that holds most is read, and `report`
    (the log, by default) takes a warning that names the others. Where several fit and none of them is among
    `RICHEST_FIRST`, none is chosen. Images beside which anything looks like annotations are never taken for bare ones.

    Raises:
        DataError: there is nothing, several formats fit of which none is richer, or there are annotations that none
            fits: all are in the message, and `report` takes a finding for each kind of them.
    """
    files = Listing(unpacked(place) if is_archive(place) else storage.absolute(place))
    if not files.entries:
        raise DataError(f"There are no files at {place}. Check the path.")
    fitting = [name for name in registry.names("formats") if _recognises(name, files)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        return _richest(place, fitting, report or _logged)
    if files.images:
        _refuse_unread(files, report)
        return "images"
    known = ", ".join(registry.names("formats"))
    raise DataError(f"{place} is in no format that is recognised, and holds no images. Name its --format: {known}.")


def _richest(place: str, fitting: list[str], report: ReportFinding) -> str:
    richest = next((name for name in RICHEST_FIRST if name in fitting), "")
    if not richest:
        raise DataError(f"{place} could be read as {' or as '.join(fitting)}. Say which: --format {fitting[0]}.")
    others = [name for name in fitting if name != richest]
    message = f"it could be read as {' or as '.join(fitting)}; read as {richest}: --format {others[0]} reads the other"
    report(finding("format-ambiguous", message, file=place))
    return richest


def _refuse_unread(files: Listing, report: ReportFinding | None) -> None:
    found: list[Finding] = []
    report_unread(files, (), found.append, Severity.ERROR)
    found = [one for one in found if one.code == "annotations-unread"]  # other images are reported when these are read
    for one in found:
        if report:
            report(one)
    if found:
        lines = "\n".join(f"  {one.message}" for one in found)
        raise DataError(
            f"{files.root} holds images, and what may be annotations of them in no format that is recognised:\n"
            f"{lines}\nName a format that reads them, or --format images for the images alone."
        )


def _recognises(name: str, files: Listing) -> bool:
    module = registry.load("formats", name)
    return isinstance(module, _Recognising) and module.recognises(files)


@runtime_checkable
class _Recognising(Protocol):
    """The module of a format whose folders show what they are."""

    def recognises(self, files: Listing) -> bool:
        """Whether they do."""
