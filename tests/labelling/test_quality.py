"""The quality of labels against the evaluator's own metrics and the formulas of calibration."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Prediction, Sample, Verdict
from segdist.labelling.consensus import CandidateMask
from segdist.labelling.quality import summarise
from segdist.labelling.tally import BOUNDARY, Tally
from segdist.metrics import evaluate
from tests.metrics.test_boundaries import paper_band

SIZE_HW = (40, 60)


def _sample(image: str, boxes: dict[str, list[tuple[float, float, float, float]]]) -> Sample:
    instances = [
        Instance(label, masks.from_box(box, size_hw=SIZE_HW), box) for label, found in boxes.items() for box in found
    ]
    return Sample(image, "", SIZE_HW, tuple(instances))


TRUTH = [
    _sample("i", {"a": [(2, 2, 12, 12), (20, 2, 30, 12)], "b": [(40, 20, 58, 38)]}),
    _sample("j", {"a": [(5, 5, 25, 25)], "b": [(30, 5, 50, 15)]}),
]
SCORES = [0.9, 0.35, 0.8, 0.6, 0.2]


def _shifted(truth: list[Sample]) -> list[Sample]:
    """Every mask moved to the right by another number of pixels, with a score."""
    made, n = [], 0
    for sample in truth:
        instances = []
        for instance in sample.instances:
            x1, y1, x2, y2 = instance.box_xyxy
            moved = masks.from_box((x1 + 2 * n, y1, x2 + 2 * n, y2), size_hw=SIZE_HW)
            instances.append(replace(instance, mask=moved, score=SCORES[n], evidence=Evidence()))
            n += 1
        made.append(replace(sample, instances=tuple(instances)))
    return made


def _tallied(*pairs: tuple[Sample, Sample], candidates: tuple[tuple[CandidateMask, ...], ...] = ()) -> dict[str, Any]:
    """The notes of a shard."""
    tally = Tally()
    for true, guess in pairs:
        tally.add(true, guess, range(len(true.instances)), candidates)
    return tally.notes()


def _quality(truth: list[Sample], made: list[Sample]) -> dict[str, object]:
    """As shards have it: a tally for each image, added up."""
    found = summarise(_tallied(pair) for pair in zip(truth, made, strict=True))["quality"]
    assert isinstance(found, dict)
    return found


def test_the_upper_bound_is_the_evaluators_iou_of_a_student_that_draws_the_labels() -> None:
    made = _shifted(TRUTH)
    found = _quality(TRUTH, made)
    predictions = [Prediction(s.image_id, s.instances) for s in made]
    values = evaluate(TRUTH, predictions, classes=("a", "b"), min_score=0.0, metrics=["iou"])
    assert found["oracle_iou"] == pytest.approx(values["iou"])
    assert found["per_class"]["b"]["oracle_iou"] == pytest.approx(values["iou/b"])  # type: ignore[index]


def test_ignored_pixels_do_not_lower_the_upper_bound() -> None:
    made = [replace(s, instances=tuple(replace(i, evidence=Evidence()) for i in s.instances)) for s in TRUTH]
    first, *others = made[0].instances
    rejected = replace(first, mask=None, evidence=Evidence(Verdict.REJECT, proposed=first.mask))
    made[0] = replace(made[0], instances=(rejected, *others))
    assert _quality(TRUTH, made)["oracle_iou"] == 1.0


def test_calibration_takes_scores_for_chances_of_an_iou_of_a_half() -> None:
    made = _shifted(TRUTH)
    found = _quality(TRUTH, made)
    pairs = [(t, g) for a, b in zip(TRUTH, made, strict=True) for t, g in zip(a.instances, b.instances, strict=True)]
    overlaps = np.array([masks.iou(t.mask, g.mask) for t, g in pairs if t.mask and g.mask])
    scores = np.array(SCORES)
    hits = overlaps >= 0.5
    assert 0 < hits.sum() < len(hits)
    assert found["brier"] == pytest.approx(np.mean((scores - hits) ** 2))
    alone = np.mean(np.abs(scores - hits))  # each score is alone in its bin
    assert found["hit_calibration_error"] == pytest.approx(alone)
    assert found["score_error"] == pytest.approx(np.mean(np.abs(scores - overlaps)))


def test_scores_are_measured_as_the_iou_they_foretell() -> None:
    made = _shifted(TRUTH)
    found = _quality(TRUTH, made)
    pairs = [(t, g) for a, b in zip(TRUTH, made, strict=True) for t, g in zip(a.instances, b.instances, strict=True)]
    overlaps = np.array([masks.iou(t.mask, g.mask) for t, g in pairs if t.mask and g.mask])
    assert found["calibration_error"] == pytest.approx(np.mean(np.abs(np.array(SCORES) - overlaps)))
    assert found["score_correlation"] == pytest.approx(np.corrcoef(SCORES, overlaps)[0, 1])
    same = [replace(s, instances=tuple(replace(i, score=0.5) for i in s.instances)) for s in made]
    in_one_bin = _quality(TRUTH, same)
    assert in_one_bin["calibration_error"] == pytest.approx(abs(0.5 - overlaps.mean()))
    assert in_one_bin["score_correlation"] is None


def test_verdicts_are_counted_by_class_and_what_people_drew_is_kept() -> None:
    first, second = TRUTH[0].instances[:2]
    drawn = replace(TRUTH[0].instances[2], evidence=None)
    verdicts = [Verdict.ACCEPT, Verdict.REVIEW, Verdict.REJECT, Verdict.REVIEW]
    asked = [first, second, replace(first, label="b"), first]
    labels = [
        replace(i, mask=i.mask if v is Verdict.ACCEPT else None, evidence=Evidence(v))
        for i, v in zip(asked, verdicts, strict=True)
    ]
    truth = replace(TRUTH[0], instances=(*asked, drawn, drawn))
    made = replace(truth, instances=(*labels, drawn, drawn))
    tally = Tally()
    assert tally.notes()["counts"] == {"labelled": 0, "review": 0, "rejected": 0, "kept": 0}
    for _ in range(2):
        tally.add(truth, made, range(4))
    counts = {"labelled": 2, "review": 4, "rejected": 2, "kept": 4}
    by_class = {"a": {"labelled": 2, "review": 4}, "b": {"rejected": 2}}
    notes = tally.notes()
    assert notes["counts"] == counts
    assert notes["verdicts"] == by_class
    found = summarise([notes, notes])
    assert {name: found[name] for name in counts} == {name: 2 * count for name, count in counts.items()}
    assert found["verdicts"] == {"a": {"labelled": 4, "review": 8}, "b": {"rejected": 4}}
    assert found["quality"]["per_class"]["b"]["verdicts"] == {"rejected": 4}


def test_a_mask_that_people_drew_counts_as_a_label_where_it_is_asked_for() -> None:
    drawn = replace(TRUTH[0], instances=TRUTH[0].instances[:1])
    assert _tallied((drawn, drawn))["counts"]["labelled"] == 1


def test_of_each_strategy_the_surest_mask_is_measured_by_the_formulas_of_the_papers() -> None:
    (true,) = (i for i in TRUTH[1].instances if i.label == "a")
    truth = replace(TRUTH[1], instances=(true,))
    boxes = {"sure": (6, 5, 26, 25), "unsure": (15, 5, 35, 25), "other": (5, 5, 25, 22)}
    said = {name: replace(true, mask=masks.from_box(box, size_hw=SIZE_HW)) for name, box in boxes.items()}
    candidates = (
        CandidateMask("grid", replace(said["unsure"], score=0.2)),
        CandidateMask("box", replace(said["other"], score=0.5)),
        CandidateMask("grid", replace(said["sure"], score=0.7)),
        CandidateMask("text", replace(true, mask=None, score=0.4)),
    )
    made = replace(truth, instances=(replace(said["other"], score=0.6, evidence=Evidence()),))
    quality = summarise([_tallied((truth, made), candidates=(candidates,))])["quality"]
    assert true.mask is not None
    own = masks.decode(true.mask)
    expected = {"grid": (said["sure"], 0.7), "box": (said["other"], 0.5)}
    for name, (guess, score) in expected.items():
        assert guess.mask is not None
        mask = masks.decode(guess.mask)
        iou = (own & mask).sum() / (own | mask).sum()
        bands = paper_band(own, BOUNDARY), paper_band(mask, BOUNDARY)
        row = quality["strategies"][name]
        assert row["iou"] == pytest.approx(iou)
        assert row["boundary_iou"] == pytest.approx((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum())
        assert row["box_fill_iou"] == 1.0
        assert row["score_error"] == pytest.approx(abs(score - iou))
        assert row["objects"] == 1
    nothing = {"objects": 1, "iou": 0.0, "boundary_iou": 0.0, "box_fill_iou": 1.0, "score_error": 0.4}
    assert quality["strategies"] == {**quality["strategies"], "text": nothing}
    assert set(quality["strategies"]) == {"grid", "box", "text"}
    assert quality["accepted"] == {name: quality[name] for name in quality["accepted"]}
    assert quality["accepted"]["iou"] == quality["strategies"]["box"]["iou"]


def test_a_label_is_right_from_an_iou_of_a_half_on() -> None:
    truth = replace(TRUTH[0], instances=TRUTH[0].instances[:1])
    x1, y1, x2, y2 = truth.instances[0].box_xyxy
    half = masks.from_box((x1, y1, x2, (y1 + y2) / 2), size_hw=SIZE_HW)
    made = replace(truth, instances=(replace(truth.instances[0], mask=half, score=0.9, evidence=Evidence()),))
    assert _quality([truth], [made])["brier"] == pytest.approx(0.1**2)


def test_the_sums_of_two_shards_are_those_of_one() -> None:
    made = _shifted(TRUTH)
    pairs = list(zip(TRUTH, made, strict=True))
    assert summarise([_tallied(*pairs)]) == summarise([_tallied(pair) for pair in pairs])
    whole = summarise([_tallied(*pairs)])["quality"]
    accepted = [g.mask for s in made for g in s.instances]
    true = [t.mask for s in TRUTH for t in s.instances]
    overlaps = [masks.iou(t, g) for t, g in zip(true, accepted, strict=True) if t and g]
    assert whole["objects"] == whole["accepted"]["objects"] == 5
    assert whole["iou"] == whole["accepted"]["iou"] == pytest.approx(np.mean(overlaps))
    assert whole["strategies"] == {}


def test_the_width_of_the_band_follows_the_size_of_the_picture() -> None:
    size_hw = (200, 300)
    own, other = np.zeros(size_hw, np.bool_), np.zeros(size_hw, np.bool_)
    own[20:160, 30:200], other[24:160, 30:196] = True, True
    (true, guess) = (Instance("a", masks.encode(m), masks.encode(m).box_xyxy) for m in (own, other))
    sample = Sample("i", "", size_hw, (true,))
    bands = paper_band(own, BOUNDARY), paper_band(other, BOUNDARY)
    assert bands[0].sum() > 3 * paper_band(own, 1e-9).sum()
    found = _quality([sample], [replace(sample, instances=(replace(guess, evidence=Evidence()),))])
    assert found["boundary_iou"] == pytest.approx((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum())


def test_what_is_taught_is_summed_in_pixels() -> None:
    made = _shifted(TRUTH[:1])
    (true, guess) = ([i.mask for i in of.instances if i.label == "a" and i.mask] for of in (TRUTH[0], made[0]))
    own, other = (np.any([masks.decode(m) for m in of], axis=0) for of in (true, guess))
    found = _tallied((TRUTH[0], made[0]))["taught"]["a"]
    assert found == [(own & other).sum(), (own | other).sum()]


def test_of_a_class_of_crowds_alone_nothing_is_known() -> None:
    crowd = replace(TRUTH[0], instances=tuple(replace(i, is_crowd=True) for i in TRUTH[0].instances))
    assert _tallied((crowd, crowd))["taught"] == {"a": [0, 0], "b": [0, 0]}


def test_a_label_for_review_is_measured_by_what_was_proposed_and_one_without_any_mask_as_none() -> None:
    def found(evidence: Evidence | None) -> Any:
        truth = replace(TRUTH[0], instances=TRUTH[0].instances[:1])
        unsaid = replace(truth.instances[0], mask=None, score=0.4, evidence=evidence)
        return _quality([truth], [replace(truth, instances=(unsaid,))])

    proposed = found(Evidence(Verdict.REVIEW, proposed=TRUTH[0].instances[0].mask))
    assert (proposed["iou"], proposed["accepted"]) == (1.0, None)
    assert (found(None)["iou"], found(Evidence(Verdict.REJECT))["iou"]) == (0.0, 0.0)


def test_verdicts_of_a_class_whose_truth_nobody_knows_are_reported() -> None:
    hidden = replace(TRUTH[0], instances=tuple(replace(i, mask=None) for i in TRUTH[0].instances))
    found = summarise([_tallied((hidden, _shifted(TRUTH[:1])[0]))])
    assert found["verdicts"] == {"a": {"labelled": 2}, "b": {"labelled": 1}}
    assert found["quality"] is None


def test_where_every_label_was_rejected_nothing_is_learned_and_there_is_no_upper_bound() -> None:
    made = [
        replace(s, instances=tuple(replace(i, mask=None, evidence=Evidence(Verdict.REJECT)) for i in s.instances))
        for s in TRUTH
    ]
    found = _quality(TRUTH, made)
    assert (found["oracle_iou"], found["accepted"], found["iou"]) == (None, None, 0.0)


def test_without_scores_of_single_objects_there_is_no_calibration() -> None:
    found = summarise([{"quality": {"a": {"label": [1, 0.5, 0.5, 0.5, 0.0]}}}])["quality"]
    assert (found["calibration_error"], found["brier"], found["oracle_iou"]) == (None, None, None)
    assert (found["hit_calibration_error"], found["score_correlation"]) == (None, None)
    assert summarise([{"counts": {"labelled": 1}}]) == {"labelled": 1, "verdicts": {}, "quality": None}
