"""Merging: names never collide, classes come in a stable order, errors stop with a list of one screen."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdist.core.errors import DataError, SpecError
from segdist.core.records import Finding, Instance, Sample, Severity
from segdist.core.spec import DataSpec
from segdist.datasets.build import build, here
from segdist.datasets.shards import write_manifest, write_shard
from segdist.reading.sources import Faults, class_names, keep_classes, open_sources, read_sources, stop_on_errors


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


def _photo(folder: Path, name: str, category: str) -> dict[str, object]:
    """A source of one image with one box of a class."""
    folder.mkdir()
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name)
    content = {
        "images": [{"id": 1, "file_name": name, "height": 40, "width": 40}],
        "categories": [{"id": 1, "name": category}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "segmentation": [[2, 2, 11, 2, 11, 11]]}
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return {"format": "coco", "path": str(folder)}


SPELLINGS = ("caf\u00e9 crack", "Caf\u00e9 Crack", "cafe\u0301 crack", " CAF\u00c9  crack")


def test_what_differs_in_spelling_alone_is_one_class_over_all_sources_and_is_reported(tmp_path: Path) -> None:
    sources = [_photo(tmp_path / str(n), f"{n}.png", name) for n, name in enumerate(SPELLINGS)]
    findings: list[Finding] = []
    labels = {i.label for _, s in _read(_data(*sources), findings) for i in s.instances}
    assert labels == {SPELLINGS[0]}
    found = [f for f in findings if f.code == "class-name-spelling" and f.file.startswith("source")]
    assert [f.file for f in found] == ["source 1 (coco)", "source 3 (coco)"], "an accent's form is not worth a word"
    assert "`Caf\u00e9 Crack` is read as `caf\u00e9 crack`" in found[0].message


def test_wanted_classes_and_class_maps_find_classes_whatever_their_spelling(tmp_path: Path) -> None:
    sources = [_photo(tmp_path / str(n), f"{n}.png", name) for n, name in enumerate(SPELLINGS)]
    sources[1]["class_map"] = {"CAF\u00c9 CRACK": "seam"}
    data = DataSpec.model_validate({"sources": sources, "classes": ["CAFE\u0301 crack", "Seam"]})
    findings: list[Finding] = []
    labels = [i.label for _, s in _read(data, findings) for i in s.instances]
    assert labels == ["CAFE\u0301 crack", "Seam", "CAFE\u0301 crack", "CAFE\u0301 crack"]
    assert not [f for f in findings if f.severity is Severity.ERROR]


def test_a_data_set_of_ours_that_was_made_with_two_spellings_is_read_with_one(tmp_path: Path) -> None:
    square = Instance("crack", None, (2, 2, 9, 9))
    samples = [Sample(f"{n}.png", "", (40, 40), (replace(square, label=label),)) for n, label in enumerate(SPELLINGS)]
    shard = write_shard(str(tmp_path / "all-00000.parquet"), [(sample, b"x") for sample in samples])
    write_manifest(str(tmp_path), "dataset", SPELLINGS, [shard])
    findings: list[Finding] = []
    read = [s for _, s in _read(_data({"format": "segdist", "path": str(tmp_path)}), findings)]
    assert {i.label for s in read for i in s.instances} == {SPELLINGS[0]}
    assert {f.code for f in findings} == {"class-name-spelling"}


@pytest.mark.parametrize(
    ("folders", "file"),
    [
        (("train", "val", "valid"), "_annotations.coco.json"),
        (("a/train", "b/train", "a/val"), "_annotations.coco.json"),
        (("annotations",) * 3, "instances_train{}.json"),
    ],
)
def test_two_images_of_one_name_in_parts_of_one_split_stay_two(
    tmp_path: Path, folders: tuple[str, ...], file: str
) -> None:
    """Roboflow's folders under both names of a split, exports side by side, COCO's own layout of several years."""
    for number, folder in enumerate(folders):
        made = _photo(tmp_path / f"made{number}", "1.png", "crack")
        place = tmp_path / "export" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / file.format(2014 + number)).write_bytes(Path(str(made["path"]), "annotations.json").read_bytes())
        Image.new("RGB", (40, 40), (number * 50, 0, 0)).save(place / "1.png")
    read = [s for _, s in _read(_data({"format": "coco", "path": str(tmp_path / "export")}))]
    assert len({s.image_id for s in read}) == len(read) == 3
    assert {s.split for s in read} <= {"train", "val"}
    data = DataSpec.model_validate({"sources": [{"format": "coco", "path": str(tmp_path / "export")}]})
    if file.startswith("_"):
        dataset = build(str(tmp_path / "data"), data, here)
        assert sum(len(s.instances) for s in dataset.samples()) == 3, "none was taken for a copy of another"


def test_an_image_that_is_called_as_one_before_is_an_error() -> None:
    findings: list[Finding] = []
    faults = Faults(findings.append)
    samples = [Sample("a", "1", (4, 4)), Sample("a", "2", (4, 4)), Sample("b", "3", (4, 4))]
    assert [s.image_uri for s in faults.usable(samples)] == ["1", "3"]
    assert [(f.code, f.severity, f.file) for f in findings] == [("image-id-duplicate", Severity.ERROR, "2")]
