"""Merging: names never collide, classes come in a stable order, errors stop with a list of one screen."""

from collections import Counter

import pytest

from segdist.data.sources import class_names, keep_classes, open_sources, read_sources, stop_on_errors
from segdist.errors import DataError, SpecError
from segdist.records import Finding, Instance, Sample, Severity
from segdist.spec import DataSpec


def _data(*sources: dict[str, object]) -> DataSpec:
    return DataSpec.model_validate({"sources": sources})


def test_images_of_the_same_name_from_two_sources_stay_two() -> None:
    one = {"format": "synthetic", "scene": "cracks", "count": 3, "size": 32}
    pairs = list(read_sources(open_sources(_data(one, one)), lambda _: None))
    assert [number for number, _ in pairs] == [0, 0, 0, 1, 1, 1]
    assert len({s.image_id for _, s in pairs}) == 6
    (alone,) = {len(s.image_id.split("/")) for _, s in read_sources(open_sources(_data(one)), lambda _: None)}
    assert alone == 1


def test_an_unknown_format_is_named_with_the_nearest_right_one() -> None:
    with pytest.raises(SpecError, match="Did you mean `coco`"):
        open_sources(_data({"format": "cocoo"}))


def test_classes_keep_the_order_of_the_file_or_the_alphabet() -> None:
    found = Counter(seam=1, crack=9)
    assert class_names((), found) == ("crack", "seam")
    assert class_names(("seam",), found) == ("seam",)
    with pytest.raises(DataError, match=r"wall.*Found: crack, seam"):
        class_names(("wall",), found)
    with pytest.raises(DataError, match="nothing to learn"):
        class_names((), Counter())


def test_instances_of_other_classes_are_left_out_and_the_image_stays() -> None:
    sample = Sample("a", "", (4, 4), (Instance("x", None, (0, 0, 1, 1)), Instance("y", None, (0, 0, 1, 1))))
    assert [i.label for i in keep_classes(sample, ("y",)).instances] == ["y"]
    assert keep_classes(sample, ("x", "y")) is sample


def test_errors_stop_with_a_list_that_fits_a_screen_and_says_how_to_go_on() -> None:
    stop_on_errors([Finding("a", Severity.WARNING, "x")])
    many = [Finding("image-missing", Severity.ERROR, "gone", image=f"i{n}") for n in range(500)]
    with pytest.raises(DataError) as caught:
        stop_on_errors(many)
    text = str(caught.value)
    assert len(text.splitlines()) < 24
    assert "500 errors" in text
    assert "i0" in text
    assert "data.on_error: skip" in text
