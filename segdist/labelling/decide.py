"""From what a teacher said about one object to its pseudo-label: agreed on, cleaned, and given a verdict."""

from collections.abc import Sequence
from dataclasses import replace

from segdist.core import masks
from segdist.core.plugins import ImageHWC
from segdist.core.records import Evidence, Instance, Verdict
from segdist.core.spec import LabelSpec, MaskLimits
from segdist.labelling.cleaning import clean
from segdist.labelling.consensus import CandidateMask, consensus, most_confident
from segdist.reading.geometry import box_iou


def pseudo_label(
    asked: Instance, candidates: Sequence[CandidateMask], image_HWC: ImageHWC, spec: LabelSpec
) -> Instance:
    """The label of one object, with the evidence for it.

    Args:
        asked: the annotated box.
        candidates: what the teacher said; none where it could not be asked.
        image_HWC: the image.
        spec: consensus, cleaning and limits.
    """
    if not candidates:
        return replace(asked, score=0.0, evidence=Evidence(Verdict.REJECT))
    answer = consensus(candidates, spec.consensus) if spec.consensus else most_confident(candidates)
    score, said = min(max(answer.score, 0.0), 1.0), answer.evidence or Evidence()
    if answer.mask is None or not answer.mask.area:
        return replace(asked, score=score, evidence=replace(said, verdict=Verdict.REJECT, unsure=None))
    mask = clean(answer.mask, image_HWC, asked.box_xyxy, spec.clean)
    guess = replace(asked, mask=mask, score=score, evidence=said)
    verdict = verdict_of(guess, spec)
    if verdict is Verdict.ACCEPT:
        return guess
    return replace(guess, mask=None, evidence=replace(said, verdict=verdict, proposed=mask, unsure=None))


def verdict_of(guess: Instance, spec: LabelSpec) -> Verdict:
    """Whether a mask is learned from, shown to a person, or dropped; what was sent to review before stays there."""
    if not _within(guess, spec.reject):
        return Verdict.REJECT
    was_sent = guess.evidence is not None and guess.evidence.verdict is Verdict.REVIEW
    return Verdict.REVIEW if was_sent or not _within(guess, spec.review) else Verdict.ACCEPT


def _within(guess: Instance, limits: MaskLimits) -> bool:
    assert guess.mask is not None
    box = guess.box_xyxy
    stability = guess.evidence.stability if guess.evidence else None
    area = masks.from_box(box, size_hw=guess.mask.size_hw).area
    return (
        guess.score >= limits.score
        and (stability is None or stability >= limits.stability)
        and box_iou(box, guess.mask.box_xyxy) >= limits.box_iou
        and (not area or guess.mask.area / area >= limits.box_share)
    )
