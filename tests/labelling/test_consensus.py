"""Consensus: agreement against its formula, votes against counting, and what is done where nobody agrees."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Rle, Verdict
from segdist.core.spec import ConsensusSpec, LabelSpec
from segdist.labelling.consensus import CandidateMask, consensus, most_confident
from segdist.labelling.decide import pseudo_label, verdict_of

SIZE_HW = (20, 30)
IMAGE = np.zeros((*SIZE_HW, 3), np.uint8)
BOX = (2.0, 2.0, 14.0, 12.0)


def candidate(box: tuple[int, int, int, int], score: float = 0.9) -> CandidateMask:
    said = Evidence(predicted_iou=score, stability=0.5)
    return CandidateMask("box", Instance("a", masks.from_box(box, size_hw=SIZE_HW), BOX, score=score, evidence=said))


def spec(**fields: object) -> LabelSpec:
    return LabelSpec.model_validate({"teacher": {"family": "classical"}, "consensus": {}, **fields})


def test_the_score_is_the_mean_iou_of_all_pairs_and_the_mask_the_majority() -> None:
    candidates = [
        candidate((2, 2, 12, 12)),
        candidate((2, 2, 13, 12)),
        candidate((2, 2, 14, 12)),
        candidate((3, 2, 14, 12)),
    ]
    decoded = [masks.decode(o.instance.mask).astype(int) for o in candidates if o.instance.mask]
    ious = [(a & b).sum() / (a | b).sum() for a, b in combinations(decoded, 2)]
    found = consensus(candidates, ConsensusSpec())
    assert found.score == pytest.approx(np.mean(ious), abs=1e-9)
    assert found.evidence is not None
    assert found.evidence.agreement == found.score
    assert found.evidence.predicted_iou == pytest.approx(0.9)
    votes = np.mean(decoded, axis=0)
    assert found.mask is not None
    assert np.array_equal(masks.decode(found.mask), votes >= 0.5)
    assert found.evidence.unsure is not None
    assert np.array_equal(masks.decode(found.evidence.unsure), (votes > 0.25) & (votes < 0.75))


def test_the_vote_is_no_single_answer_and_the_evidence_is_the_mean_of_those_that_agree() -> None:
    candidates = [candidate((2, 2, 12, 12), 0.9), candidate((4, 2, 14, 12), 0.7), candidate((3, 1, 13, 11), 0.2)]
    decoded = [masks.decode(o.instance.mask).astype(int) for o in candidates if o.instance.mask]
    found = consensus(candidates, ConsensusSpec(band="keep"))
    assert found.mask is not None
    assert found.mask not in [o.instance.mask for o in candidates]
    assert np.array_equal(masks.decode(found.mask), np.sum(decoded, axis=0) >= 2)
    assert found.evidence is not None
    assert found.evidence.predicted_iou == pytest.approx(0.6)
    assert replace(found.evidence, predicted_iou=None) == Evidence(stability=0.5, agreement=found.score)
    untold = [CandidateMask("box", replace(o.instance, evidence=Evidence())) for o in candidates]
    assert consensus(untold, ConsensusSpec(band="keep")).evidence == Evidence(agreement=found.score)


def test_two_answers_agree_from_the_least_iou_on() -> None:
    whole, half = candidate((2, 2, 12, 12)), candidate((2, 2, 12, 7))
    agreed = consensus([whole, half], ConsensusSpec(agree_iou=0.5))
    assert agreed.evidence is not None
    assert agreed.evidence.verdict is Verdict.ACCEPT
    assert agreed.mask == whole.instance.mask, "half of two is enough"
    apart = consensus([whole, half], ConsensusSpec(agree_iou=0.51))
    assert apart.evidence is not None
    assert apart.evidence.verdict is Verdict.REVIEW
    assert apart.score == agreed.score == pytest.approx(0.5)


def test_the_surest_answer_is_that_of_the_highest_score_among_those_with_a_pixel() -> None:
    pixel, empty = candidate((2, 2, 3, 3), 0.1), candidate((2, 2, 2, 3), 0.9)
    nothing = CandidateMask("box", Instance("a", None, BOX, score=0.99))
    assert most_confident([empty, nothing, pixel, candidate((2, 2, 9, 9), 0.05)]) == pixel.instance
    assert most_confident([empty, nothing]) == nothing.instance


def test_an_outlier_lowers_the_score_and_has_no_vote() -> None:
    candidates = [candidate((2, 2, 12, 12))] * 3 + [candidate((20, 2, 28, 18))]
    found = consensus(candidates, ConsensusSpec())
    assert found.mask == candidates[0].instance.mask
    assert found.score == pytest.approx(0.5)  # three pairs of six
    assert found.evidence is not None
    assert found.evidence.unsure is None


def test_masks_that_no_two_prompts_agree_on_go_to_review_with_what_is_proposed() -> None:
    candidates = [candidate((2, 2, 6, 6)), candidate((10, 2, 14, 8)), candidate((20, 10, 28, 18))]
    asked = Instance("a", None, BOX)
    made = pseudo_label(asked, candidates, IMAGE, spec())
    assert made.mask is None
    assert made.evidence is not None
    assert made.evidence.verdict is Verdict.REVIEW
    assert made.evidence.proposed in [o.instance.mask for o in candidates]


def test_an_answer_without_a_pixel_counts_as_disagreement() -> None:
    nothing = CandidateMask("box", Instance("a", None, BOX, score=0.99))
    found = consensus([candidate((2, 2, 12, 12)), candidate((2, 2, 12, 12)), nothing], ConsensusSpec())
    assert found.score == pytest.approx(1 / 3)
    assert most_confident([nothing, candidate((2, 2, 4, 4), 0.1)]).mask is not None


def test_of_one_opinion_nothing_can_be_said() -> None:
    (only,) = [candidate((2, 2, 12, 12), 0.7)]
    assert consensus([only], ConsensusSpec()) == only.instance


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({}, Verdict.ACCEPT),
        ({"review": {"score": 0.8}}, Verdict.REVIEW),
        ({"review": {"stability": 0.8}}, Verdict.REVIEW),
        ({"review": {"box_iou": 0.9}}, Verdict.REVIEW),
        ({"review": {"box_share": 0.9}}, Verdict.REVIEW),
        ({"review": {"score": 0.8}, "reject": {"score": 0.8}}, Verdict.REJECT),
        ({"reject": {"box_share": 0.9}}, Verdict.REJECT),
    ],
    ids=str,
)
def test_limits_decide_by_score_and_by_geometry(limits: dict[str, object], verdict: Verdict) -> None:
    made = pseudo_label(Instance("a", None, BOX), [candidate((2, 2, 12, 8), 0.7)], IMAGE, spec(**limits))
    assert made.evidence is not None
    assert made.evidence.verdict is verdict
    assert (made.mask is not None) == (verdict is Verdict.ACCEPT)


def test_a_mask_that_is_just_within_every_limit_is_accepted() -> None:
    box = (2.0, 2.0, 12.0, 12.0)
    limits = {"score": 0.5, "stability": 0.5, "box_iou": 0.5, "box_share": 0.5}
    made = pseudo_label(
        Instance("a", None, box), [candidate((2, 2, 12, 7), 0.5)], IMAGE, spec(review=limits, reject=limits)
    )
    assert made.evidence is not None
    assert made.evidence.verdict is Verdict.ACCEPT


def test_a_mask_whose_stability_nobody_told_is_not_judged_by_it() -> None:
    untold = CandidateMask("box", replace(candidate((2, 2, 12, 8)).instance, evidence=None))
    made = pseudo_label(Instance("a", None, BOX), [untold], IMAGE, spec(reject={"stability": 0.9}))
    assert made.mask is not None
    assert verdict_of(replace(made, evidence=None), spec(reject={"stability": 0.9})) is Verdict.ACCEPT


@pytest.mark.parametrize("mask", [None, masks.empty(SIZE_HW)])
def test_an_answer_without_a_pixel_is_rejected_with_what_the_teacher_said(mask: Rle | None) -> None:
    said = Evidence(predicted_iou=0.4, stability=0.3, unsure=masks.from_box((0, 0, 2, 2), size_hw=SIZE_HW))
    answer = CandidateMask("box", Instance("?", mask, (0, 0, 1, 1), score=0.4, evidence=said))
    made = pseudo_label(Instance("a", None, BOX), [answer], IMAGE, spec())
    rejected = Evidence(Verdict.REJECT, predicted_iou=0.4, stability=0.3)
    assert made == Instance("a", None, BOX, score=0.4, evidence=rejected)


def test_without_consensus_the_surest_answer_is_cleaned_and_its_score_is_a_share() -> None:
    outside = candidate((0, 0, 20, 16), 1.3)
    policy = spec(consensus=None, clean=[{"clip_to_box": {"margin": 0}}])
    made = pseudo_label(Instance("a", None, BOX), [candidate((2, 2, 9, 9), 0.6), outside], IMAGE, policy)
    assert made.mask == masks.from_box(BOX, size_hw=SIZE_HW)
    assert made.score == 1.0


def test_what_is_not_accepted_has_no_unsure_pixels() -> None:
    candidates = [candidate((2, 2, 12, 12)), candidate((2, 2, 13, 12)), candidate((2, 2, 14, 12))]
    made = pseudo_label(Instance("a", None, BOX), candidates, IMAGE, spec(reject={"score": 0.99}))
    assert made.evidence is not None
    assert (made.evidence.verdict, made.evidence.unsure) == (Verdict.REJECT, None)


def test_an_object_nobody_could_be_asked_about_is_rejected() -> None:
    made = pseudo_label(Instance("a", None, BOX), [], IMAGE, spec())
    assert (made.mask, made.score) == (None, 0.0)
    assert made.evidence is not None
    assert made.evidence.verdict is Verdict.REJECT
