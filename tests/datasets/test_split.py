"""Splits: reproducible, groups whole, classes spread, given splits kept, leaks named."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from segdist.checking.validation import review
from segdist.core.records import Instance, Sample, Severity
from segdist.core.spec import DataSpec, SplitSpec
from segdist.datasets.build import build, here
from segdist.datasets.split import leaks, split, untrained
from segdist.reading.archived import open_format
from tests.dirty.export import Export


def _sample(number: int, *labels: str, group: str = "", given: str = "") -> Sample:
    boxes = tuple(Instance(label, None, (0, 0, 1, 1)) for label in labels)
    return Sample(f"i{number:04d}", "", (4, 4), boxes, given, group)


def test_the_shares_are_met_and_the_seed_decides_who_goes_where() -> None:
    samples = [_sample(n, "a") for n in range(200)]
    places = split(samples, SplitSpec(val=0.2, test=0.1, seed=3))
    assert Counter(places.values()) == {"train": 140, "val": 40, "test": 20}
    assert places == split(samples[::-1], SplitSpec(val=0.2, test=0.1, seed=3))
    assert places != split(samples, SplitSpec(val=0.2, test=0.1, seed=4))


def test_a_rare_class_reaches_every_split() -> None:
    samples = [_sample(n, "common", *(["rare"] if n % 20 == 0 else [])) for n in range(200)]
    places = split(samples, SplitSpec(val=0.2, test=0.2))
    rare = Counter(places[s.image_id] for s in samples if len(s.instances) == 2)
    assert rare == {"train": 6, "val": 2, "test": 2}


def test_a_rare_size_of_a_common_class_reaches_every_split() -> None:
    samples = [_sample(n, "crack") for n in range(200)]
    large = Instance("crack", None, (0, 0, 100, 100))
    samples = [replace(s, instances=(*s.instances, large)) if n % 20 == 0 else s for n, s in enumerate(samples)]
    places = split(samples, SplitSpec(val=0.2, test=0.2))
    assert Counter(places[s.image_id] for s in samples if large in s.instances) == {"train": 6, "val": 2, "test": 2}


def test_splits_that_are_there_are_made_anew_on_request() -> None:
    samples = [_sample(n, "a", given="train") for n in range(50)]
    places = split(samples, SplitSpec(val=0.2, test=0.2, given="redo"))
    assert Counter(places.values()) == {"train": 30, "val": 10, "test": 10}


def test_groups_are_never_parted() -> None:
    samples = [_sample(n, "a", group=f"g{n // 7}") for n in range(140)]
    places = split(samples, SplitSpec())
    for group in range(20):
        assert len({places[s.image_id] for s in samples if s.group == f"g{group}"}) == 1
    assert len(set(places.values())) == 3


def test_given_splits_are_kept_and_only_the_others_divided() -> None:
    samples = [_sample(n, "a", given="test" if n < 10 else "") for n in range(100)]
    places = split(samples, SplitSpec())
    assert all(places[f"i{n:04d}"] == "test" for n in range(10))
    assert {"train", "val"} <= {places[f"i{n:04d}"] for n in range(10, 100)}


def test_without_a_validation_split_some_of_the_training_images_become_one() -> None:
    places = split([_sample(n, "a", given="train") for n in range(50)], SplitSpec(val=0.2))
    assert Counter(places.values()) == {"train": 40, "val": 10}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_samples_leave_at_least_one_to_train_on(count: int) -> None:
    assert "train" in split([_sample(n, "a") for n in range(count)], SplitSpec()).values()


def test_images_that_share_a_key_over_splits_are_named_once() -> None:
    found = leaks(
        {"a": "train", "b": "val", "c": "val"},
        {"a": "x", "b": "x", "c": "y"},
        code="image-in-two-splits",
        what="copies",
    )
    assert [(f.code, f.image) for f in found] == [("image-in-two-splits", "a")]
    assert "a, b" in found[0].message


def test_a_class_that_train_does_not_show_is_named_once() -> None:
    counts = {"train": {"crack": 3}, "val": {"crack": 1, "seam": 2}, "test": {"seam": 1, "joint": 1}}
    found = list(untrained(counts))
    assert [(f.code, f.severity) for f in found] == [("class-untrained", Severity.WARNING)] * 2
    assert "`joint` there is nothing in train, but 1 instance in test" in found[0].message
    assert "of `seam` there is nothing in train, but 3 instances in val and test" in found[1].message
    assert list(untrained({"val": {"crack": 1}})) == []
    assert list(untrained({"train": {}, "val": {"crack": 1}})) == []


def test_validate_and_a_built_data_set_warn_of_a_class_that_only_valid_shows(tmp_path: Path) -> None:
    export = Export()
    for content in export.splits.values():
        content["categories"].append({"id": 2, "name": "seam", "supercategory": "cracks-3ii36"})
    export.splits["valid"]["annotations"][0]["category_id"] = 2
    place = str(export.write(tmp_path / "in"))
    found = review(open_format("coco", {"path": place}), "coco")
    assert [f.code for f in found.findings] == ["class-untrained"]
    data = DataSpec.model_validate({"sources": [{"format": "coco", "path": place}]})
    dataset = build(str(tmp_path / "out"), data, here)
    assert "class-untrained" in str(dataset.manifest.findings)
