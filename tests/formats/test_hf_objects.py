"""Hugging Face rows: both layouts, what `datasets` writes and reads, and the traps of real tables."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segdist.converting.convert import convert
from segdist.core.errors import DataError
from segdist.core.masks import decode, encode
from segdist.core.records import Finding, Sample, Severity
from segdist.formats.hf_objects import Format, Options
from segdist.formats.hf_objects.columns import names_in
from tests.formats.reading import read_all

HEIGHT, WIDTH = 20, 30


def png(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def table(
    folder: Path, objects: list[Any], *, names: list[str] | None = None, name: str = "a.parquet", **columns: Any
) -> Path:
    """A table with one row for each entry of `objects`; `names` become a class label of the features."""
    images = columns.pop("image", [{"bytes": png(n), "path": f"{n}.png"} for n in range(len(objects))])
    made = pa.table({"image": images, "objects": objects, **columns})
    if names is not None:
        feature = {"category": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"objects": feature}}})})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, folder / name)
    return folder


def read(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(Format(Options(path=str(folder), **options)))


LISTS: dict[str, Any] = {
    "id": [1, 2],
    "category": [0, 1],
    "bbox": [[2.0, 3.0, 10.0, 8.0], [0.0, 0.0, 5.0, 5.0]],
    "area": [80.0, 25.0],
}
OBJECTS = [{key: values[n] for key, values in LISTS.items()} for n in range(2)]


@pytest.mark.parametrize("objects", [LISTS, OBJECTS], ids=["object of lists", "list of objects"])
def test_both_layouts_give_the_same_instances(tmp_path: Path, objects: Any) -> None:
    (sample,), findings = read(table(tmp_path, [objects], names=["crack", "seam"]))
    assert findings == []
    assert sample.image_id == "0.png"
    assert [(i.label, i.box_xyxy) for i in sample.instances] == [("crack", (2, 3, 12, 11)), ("seam", (0, 0, 5, 5))]
    assert Format(Options(path=str(tmp_path))).image_bytes(sample) == png()


def test_categories_may_be_text_and_an_image_may_have_no_object(tmp_path: Path) -> None:
    rows: list[Any] = [{**LISTS, "category": ["crack", "Crack "]}, {key: [] for key in LISTS} | {"category": []}, None]
    samples, findings = read(table(tmp_path, rows))
    assert [[i.label for i in s.instances] for s in samples] == [["crack", "crack"], [], []]
    assert [f.code for f in findings] == ["class-name-spelling"]


def test_numbers_without_names_are_refused_and_names_may_be_given(tmp_path: Path) -> None:
    folder = table(tmp_path, [LISTS])
    with pytest.raises(DataError, match="Set `names`"):
        read(folder)
    (sample,), _ = read(folder, names=("a", "b"))
    assert [i.label for i in sample.instances] == ["a", "b"]
    (sample,), findings = read(folder, names=("a",))
    assert [(f.code, f.annotation) for f in findings] == [("category-unknown", "2")]


@pytest.mark.parametrize(
    "feature",
    [
        {"category": {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "List"}},
        {"feature": {"category": {"names": ["a", "b"], "_type": "ClassLabel"}}, "_type": "Sequence"},
        [{"categories": {"names": {"1": "b", "0": "a"}, "_type": "ClassLabel"}}],
    ],
)
def test_class_labels_are_found_however_versions_of_datasets_nest_them(feature: Any) -> None:
    assert names_in(feature) == ["a", "b"]
    assert names_in({"category": {"dtype": "int64", "_type": "Value"}}) == []


def test_polygons_and_run_lengths_of_either_kind_become_masks(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[3:11, 2:12] = True
    drawn = [[[2.0, 3.0, 12.0, 3.0, 12.0, 11.0, 2.0, 11.0]]]
    packed = [{"size": [HEIGHT, WIDTH], "counts": encode(mask).counts.decode()}]
    one = {"category": ["crack"], "bbox": [[2.0, 3.0, 10.0, 8.0]]}
    for number, segmentation in enumerate((drawn, packed, [json.dumps(packed[0])])):
        (sample,), findings = read(table(tmp_path / str(number), [{**one, "segmentation": segmentation}]))
        assert sample.instances[0].mask is not None
        assert np.array_equal(decode(sample.instances[0].mask), mask)
        assert [f.code for f in findings] == (["annotation-repaired"] if number == 2 else [])


def test_a_missing_mask_is_reported_only_where_others_have_one(tmp_path: Path) -> None:
    two = {"category": ["crack", "crack"], "bbox": [[0.0, 0.0, 5.0, 5.0], [2.0, 3.0, 10.0, 8.0]]}
    polygon = [[2.0, 3.0, 12.0, 3.0, 12.0, 11.0]]
    _, findings = read(table(tmp_path / "some", [{**two, "segmentation": [None, polygon]}]))
    assert [(f.code, f.annotation) for f in findings] == [("mask-missing", "object 0")]
    assert read(table(tmp_path / "none", [{**two, "segmentation": [None, None]}]))[1] == []


def test_boxes_as_corners_or_shares_are_an_error_of_the_file_and_corners_can_be_read(tmp_path: Path) -> None:
    corners = {
        "category": ["a"] * 3,
        "bbox": [[20.0, 10.0, 30.0, 20.0], [15.0, 5.0, 29.0, 18.0], [9.0, 9.0, 28.0, 20.0]],
    }
    folder = table(tmp_path / "corners", [corners])
    assert "box-corners" in {f.code for f in read(folder)[1] if f.severity is Severity.ERROR}
    (sample,), found = read(folder, boxes="xyxy")
    assert found == []
    assert [i.box_xyxy for i in sample.instances][:1] == [(20, 10, 30, 20)]
    shares = {"category": ["a"] * 3, "bbox": [[0.1, 0.2, 0.3, 0.4]] * 2 + [[0.0, 0.0, 0.9, 0.5]]}
    assert "coordinates-normalised" in [f.code for f in read(table(tmp_path / "shares", [shares]))[1]]


def test_rows_that_cannot_be_read_are_named_and_the_others_stay(tmp_path: Path) -> None:
    ragged = {"category": ["a"], "bbox": [[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 2.0, 2.0]]}
    good = {"category": ["a"], "bbox": [[0.0, 0.0, 5.0, 5.0]]}
    images = [
        {"bytes": png(), "path": "0.png"},
        {"bytes": b"no image", "path": "1.png"},
        {"bytes": None, "path": "../../etc/passwd"},
        {"bytes": None, "path": None},
        {"bytes": png(), "path": "4.png"},
    ]
    samples, findings = read(table(tmp_path, [ragged, good, good, good, good], image=images))
    assert [s.image_id for s in samples] == ["4.png"]
    assert [f.code for f in findings] == ["row-malformed", "image-unreadable", "image-missing", "image-missing"]
    assert all(f.severity is Severity.ERROR for f in findings)
    assert "of one length" in findings[0].message


def test_images_may_lie_beside_the_table_and_names_that_repeat_stay_two_images(tmp_path: Path) -> None:
    good = {"category": ["a"], "bbox": [[0.0, 0.0, 5.0, 5.0]]}
    images = [
        {"bytes": None, "path": "photos/a.png"},
        {"bytes": png(1), "path": "image.png"},
        {"bytes": png(2), "path": "image.png"},
    ]
    folder = table(tmp_path, [good] * 3, image=images, name="train-00000-of-00001.parquet")
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(png())
    samples, findings = read(folder)
    assert findings == []
    assert len({s.image_id for s in samples}) == 3
    assert {s.split for s in samples} == {"train"}
    source = Format(Options(path=str(folder)))
    assert [source.image_bytes(s) for s in samples] == [png(), png(1), png(2)]


def test_a_missing_column_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    folder = table(tmp_path, [LISTS])
    with pytest.raises(DataError, match="no column `picture`, only image, objects"):
        read(folder, image="picture")
    (folder / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read(folder)
    (folder / "a.parquet").unlink()
    with pytest.raises(DataError):
        read(folder)


def _source(folder: Path) -> Path:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[3:11, 2:12] = mask[15:18, 20:29] = True
    mask[5:8, 5:8] = False
    rle = {"size": [HEIGHT, WIDTH], "counts": encode(mask).counts.decode()}
    for split in ("train", "valid"):
        (folder / split).mkdir(parents=True)
        images = [{"id": n, "file_name": f"{split}{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(2)]
        for image in images:
            (folder / split / str(image["file_name"])).write_bytes(png(int(str(image["id"]))))
        annotations = [
            {"id": 1, "image_id": 0, "category_id": 5, "bbox": [2, 3, 27, 15], "segmentation": rle, "score": 0.5},
            {"id": 2, "image_id": 0, "category_id": 7, "bbox": [2, 3, 10.5, 8], "segmentation": [], "iscrowd": 1},
        ]
        categories = [{"id": 5, "name": "crack"}, {"id": 7, "name": "seam"}]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
            "licenses": [{"name": "CC BY 4.0"}],
        }
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def test_what_is_written_is_read_back_exactly_by_segdist_and_by_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    result = convert(str(_source(tmp_path / "in")), str(tmp_path / "out"), to="hf_objects")
    assert result["round_trip"]["exact"]
    assert result["losses"] == []
    assert [entry["code"] for entry in result["read_back"]] == ["mask-missing"]
    back = Format(Options(path=str(tmp_path / "out")))
    first = next(iter(back.read(lambda finding: None)))
    assert [(i.label, i.score, i.is_crowd) for i in first.instances] == [("crack", 0.5, False), ("seam", 1.0, True)]
    assert back.licences() == ("CC BY 4.0",)

    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 2, "validation": 2}
    row = loaded["train"][0]
    assert row["image"].size == (WIDTH, HEIGHT)
    assert loaded["train"].features["objects"]["category"].feature.names == ["crack", "seam"]
    loaded.save_to_disk(str(tmp_path / "disk"))
    (tmp_path / "disk" / "train" / "cache-1.arrow").write_bytes(b"left over")
    from_disk, findings = read(tmp_path / "disk")
    assert [f for f in findings if f.severity is Severity.ERROR] == []
    assert (from_disk[0].split, from_disk[0].instances) == ("train", first.instances)
    assert len(from_disk) == 4
