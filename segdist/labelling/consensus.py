"""Several masks of one object become one, and how well they agree becomes its score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Rle, Verdict
from segdist.core.spec import ConsensusSpec
from segdist.metrics.matching import overlap_matrix


@dataclass(frozen=True)
class CandidateMask:
    """One mask of an object, and the prompt strategy that led to it."""

    strategy: str
    instance: Instance


def most_confident(candidates: Sequence[CandidateMask]) -> Instance:
    """The answer with the highest score; one without a pixel only where no other has any."""
    return max((o.instance for o in candidates), key=lambda i: (i.mask is not None and i.mask.area > 0, i.score))


def consensus(candidates: Sequence[CandidateMask], options: ConsensusSpec) -> Instance:
    """What the prompts agree on; its score is their agreement.

    The agreement is the mean IoU of all pairs of answers, an empty one counting as no overlap. The mask is the vote of
    those answers that agree with the most central one. Where no two agree, the most central answer is proposed for
    review.

    Args:
        candidates: at least one; of one candidate nothing can be said, and it comes back as it is.
        options: shares and thresholds.
    """
    best = most_confident(candidates)
    if len(candidates) < 2 or best.mask is None:
        return best
    rles = [o.instance.mask or masks.empty(best.mask.size_hw) for o in candidates]
    overlaps = np.nan_to_num(overlap_matrix(rles, rles))
    others = (overlaps.sum(axis=1) - overlaps.diagonal()) / (len(rles) - 1)
    agreement = float(others.mean())
    central = int(others.argmax())
    agree = [k for k in range(len(rles)) if k == central or overlaps[central, k] >= options.agree_iou]
    said = _mean_evidence([candidates[k].instance for k in agree], agreement)
    if len(agree) < 2:
        said = replace(said, verdict=Verdict.REVIEW)
        return replace(candidates[central].instance, score=agreement, evidence=said)
    mask, unsure = _vote([rles[k] for k in agree], options)
    if options.band == "ignore" and unsure.area:
        said = replace(said, unsure=unsure)
    return replace(candidates[central].instance, mask=mask, score=agreement, evidence=said)


def _vote(rles: Sequence[Rle], options: ConsensusSpec) -> tuple[Rle, Rle]:
    """The pixels that enough masks have, and those on which the masks disagree."""
    height, width = rles[0].size_hw
    cut = masks.tight_cut(*rles)
    share_HW = np.mean([masks.decode_cut(r, cut) for r in rles], axis=0)
    certain = options.certain - 1e-9  # three of four is 0.75 also where it is a sum of quarters
    unsure_HW = (share_HW > 1 - certain) & (share_HW < certain)
    return _pasted(share_HW >= options.share - 1e-9, cut, (height, width)), _pasted(unsure_HW, cut, (height, width))


def _pasted(part_HW: NDArray[np.bool_], cut: tuple[slice, slice], size_hw: tuple[int, int]) -> Rle:
    whole_HW = np.zeros(size_hw, np.bool_)
    whole_HW[cut] = part_HW
    return masks.encode(whole_HW)


def _mean_evidence(instances: Sequence[Instance], agreement: float) -> Evidence:
    said = [i.evidence for i in instances if i.evidence]
    return Evidence(
        predicted_iou=_mean([e.predicted_iou for e in said]),
        stability=_mean([e.stability for e in said]),
        agreement=agreement,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
