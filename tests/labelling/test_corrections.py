"""Decisions of people: only what was decided changes, and of two decisions the newer counts."""

from dataclasses import replace
from pathlib import Path

import pytest

from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.records import Evidence, Instance, Sample
from segdist.labelling.corrections import Corrections, corrections_uri

SIZE_HW = (9, 12)
ONE, OTHER = (masks.from_box(box, size_hw=SIZE_HW) for box in ((0, 0, 3, 3), (4, 4, 9, 9)))


def test_only_what_was_decided_changes_and_it_counts_as_human_truth() -> None:
    labels = tuple(Instance("a", ONE, (0, 0, 3, 3), score=0.4, evidence=Evidence()) for _ in range(3))
    sample = Sample("i", "", SIZE_HW, labels)
    made = Corrections({"i": {0: OTHER, 2: None}}).apply(sample)
    decided = replace(labels[0], mask=OTHER, score=1.0, evidence=None)
    assert made.instances == (decided, labels[1], replace(decided, mask=masks.empty(SIZE_HW)))
    assert Corrections({"j": {0: OTHER}}).apply(sample) is sample
    with pytest.raises(DataError, match=r"c\.json: the mask of object 0 of i .* \(9, 12\), but has \(2, 2\)"):
        Corrections({"i": {0: masks.empty((2, 2))}}, "c.json").apply(sample)


def test_of_two_decisions_the_newer_counts_and_all_others_stay() -> None:
    older = Corrections({"i": {0: ONE, 1: ONE}, "j": {0: None}}, "c.json")
    newer = Corrections({"i": {1: OTHER}, "k": {0: ONE}}, "elsewhere.json")
    both = older.merged(newer)
    assert both.of_image == {"i": {0: ONE, 1: OTHER}, "j": {0: None}, "k": {0: ONE}}
    assert both.uri == "c.json"


def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    uri = str(tmp_path / "c.json")
    Path(uri).write_text('{"i": {"one": null}}')
    with pytest.raises(DataError, match=r"c\.json must hold masks by image and object, but: .*'one'.* Take out what"):
        Corrections.load(uri)


def test_decisions_come_back_from_their_file_and_are_none_before_there_is_one(tmp_path: Path) -> None:
    uri = corrections_uri(str(tmp_path), "/elsewhere/datasets/roofs-1f/")
    assert Path(uri) == tmp_path / "corrections" / "roofs-1f.json"
    assert corrections_uri("s3://bucket/a", "X").endswith("/X.json")
    assert Corrections.load(uri) == Corrections({}, uri)
    assert Corrections.load(uri).fingerprint == ""
    made = Corrections({"i": {10: ONE, 9: None}}, uri)
    made.save(uri)
    assert Corrections.load(uri) == made
    assert made.fingerprint == Corrections.load(uri).fingerprint != ""
