"""The queue as a page: every label in doubt beside its pixels, the most rewarding first."""

from collections.abc import Sequence

import numpy as np

from segdist.core.panels import ImageHWC, overlay
from segdist.core.records import Instance
from segdist.core.text import counted
from segdist.labelling.review.queue import Doubt
from segdist.pages.base import Figure, Section, picture, write_page
from segdist.reading.geometry import cut_out

FILE = "index.html"
MOST = 300
"""Objects on the page; the files hold all of them."""
_MARGIN = 0.25
_GAP = 4


def figure(doubt: Doubt, image_HWC: ImageHWC, classes: Sequence[str]) -> Figure:
    """The object's surroundings as they are, and with the proposed mask and the box."""
    instance = doubt.instance
    size_hw = image_HWC.shape[0], image_HWC.shape[1]
    rows, columns = cut_out(instance.box_xyxy, size_hw, margin=_MARGIN)
    shown = [Instance(instance.label, None, instance.box_xyxy)]
    if doubt.mask is not None and doubt.mask.area:
        shown.append(Instance(instance.label, doubt.mask, instance.box_xyxy))
    drawn_HWC = overlay(image_HWC, shown, classes, labels=False)
    plain, drawn = image_HWC[rows, columns], drawn_HWC[rows, columns]
    gap = np.full((plain.shape[0], _GAP, 3), 255, np.uint8)
    said = instance.evidence
    facts = [f"{doubt.verdict}, score {instance.score:.2f}"]
    if said and said.agreement is not None:
        facts.append(f"agreement {said.agreement:.2f}")
    if said and said.predicted_iou is not None:
        facts.append(f"predicted IoU {said.predicted_iou:.2f}")
    facts.append(f"gain {doubt.gain:.2g}")
    title = f"{doubt.number}. {instance.label}"
    return Figure(picture(np.hstack([plain, gap, drawn])), title, f"{', '.join(facts)}; {doubt.image_id}")


def write(uri: str, figures: Sequence[Figure], classes: Sequence[str], *, total: int, title: str) -> None:
    """Write the page."""
    note = (
        "Left the image, right the proposed mask and the annotated box. The gain is the share of a class's pixels that "
        "is expected to be wrong in this label: the first ones are worth the most time. Where most masks show "
        "something else than the objects, correct none, and name another teacher: `label.teacher`."
    )
    shown = f"{len(figures)} of {counted(total, 'label')}" if total > len(figures) else f"{counted(total, 'label')}"
    write_page(uri, f"Review: {title}", [Section(shown, figures=figures)], note=note, classes=classes)
