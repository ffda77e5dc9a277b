"""Merging: names never collide, classes come in a stable order, errors stop with a list of one screen."""

from collections import Counter
from collections.abc import Iterator

import pytest

from segdist.data.sources import class_names, keep_classes, open_sources, read_sources, stop_on_errors
from segdist.errors import DataError, SpecError
from segdist.records import Finding, Instance, Sample, Severity
from segdist.spec import DataSpec


def _data(*sources: dict[str, object]) -> DataSpec:
    return DataSpec.model_validate({"sources": sources})


def _read(data: DataSpec, findings: list[Finding] | None = None) -> Iterator[tuple[int, Sample]]:
    return read_sources(data, open_sources(data), (findings if findings is not None else []).append)


def test_images_of_the_same_name_from_two_sources_stay_two() -> None:
    one = {"format": "synthetic", "scene": "cracks", "count": 3, "size": 32}
    pairs = list(_read(_data(one, one)))
    assert [number for number, _ in pairs] == [0, 0, 0, 1, 1, 1]
    assert len({s.image_id for _, s in pairs}) == 6
    (alone,) = {len(s.image_id.split("/")) for _, s in _read(_data(one))}
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


def test_classes_are_renamed_joined_and_dropped_and_texts_and_groups_are_written_into_each_sample() -> None:
    drawn = {"format": "synthetic", "scene": "rooms", "count": 2, "size": 64}
    source = {
        **drawn,
        "class_map": {"wall": "surface", "floor": "surface", "trim": None},
        "text": "walls",
        "group": "g",
    }
    findings: list[Finding] = []
    plain = [s for _, s in _read(_data(drawn))]
    mapped = [s for _, s in _read(_data(source), findings)]
    assert findings == []
    assert {s.text for s in mapped} == {"walls"}
    assert {s.group for s in mapped} == {"g"}
    for before, after in zip(plain, mapped, strict=True):
        kept = [i for i in before.instances if i.label != "trim"]
        assert [i.mask for i in after.instances] == [i.mask for i in kept]
        names = {"wall": "surface", "floor": "surface"}
        assert [i.label for i in after.instances] == [names.get(i.label, i.label) for i in kept]


def test_a_class_map_that_names_no_class_of_its_source_is_an_error_with_the_nearest() -> None:
    findings: list[Finding] = []
    source = {"format": "synthetic", "scene": "cracks", "count": 3, "size": 64, "empty_share": 0}
    list(_read(_data({**source, "class_map": {"crak": "fissure"}}), findings))
    assert [(f.code, f.severity) for f in findings] == [("class-unmapped", Severity.ERROR)]
    assert "Did you mean `crack`?" in findings[0].message
