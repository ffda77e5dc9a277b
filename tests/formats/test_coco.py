"""COCO: real exports are read as their authors meant them; broken ones are in tests/dirty."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segdist.core.errors import DataError
from segdist.core.masks import decode, encode
from segdist.core.records import Finding, Sample, Severity
from segdist.datasets.checks import check_image
from segdist.datasets.split import leaks
from segdist.formats.coco import Format, Options
from segdist.reading.listing import source_stem
from tests.formats.reading import read_all

SHARED = Path(__file__).parents[3] / "shared"
real_data = pytest.mark.skipif(
    not (SHARED / "data").exists(), reason="the real exports lie beside the project only here"
)


def read(path: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    """Everything a run does with a source before it learns: read, decode, compare the splits."""
    import hashlib

    findings: list[Finding] = []
    source = Format(Options(path=str(path), **options))
    kept, hashes = [], {}
    missing = set()
    for sample in source.read(findings.append):
        missing = {f.image for f in findings if f.code == "image-missing"}
        if sample.image_id in missing:
            continue
        content = source.image_bytes(sample)
        checked, found = check_image(sample, content)
        findings += found
        if checked:
            kept.append(checked)
            hashes[checked.image_id] = hashlib.sha256(content).hexdigest()
    places = {s.image_id: s.split for s in kept}
    findings += leaks(places, hashes, code="image-in-two-splits", what="identical images")
    findings += leaks(
        places, {s.image_id: s.group for s in kept}, code="source-in-two-splits", what="copies of one source"
    )
    return kept, findings


@real_data
def test_facades_keep_ten_classes_and_find_the_images_of_the_nested_folder() -> None:
    findings: list[Finding] = []
    samples = list(Format(Options(path=str(SHARED / "data/facades"))).read(findings.append))
    assert Counter(s.split for s in samples) == {"train": 200, "val": 108}
    assert len({i.label for s in samples for i in s.instances}) == 10
    assert not [f for f in findings if f.severity is Severity.ERROR], findings[:3]
    assert sum("/images/" in s.image_uri for s in samples) == 24
    kept = sum(len(s.instances) for s in samples)
    skipped = [f for f in findings if f.severity is Severity.SKIPPED]
    assert kept + len(skipped) == 6264 + 3849


@real_data
def test_potholes_keep_their_annotated_self_parent_and_their_missing_images_are_named() -> None:
    samples, findings = read(SHARED / "data/potholes", splits=("train", "val"))
    assert {i.label for s in samples for i in s.instances} == {"pothole"}
    assert not [f for f in findings if f.severity is Severity.ERROR], findings[:3]
    assert "valid-mini" in str([f for f in findings if f.code == "folder-unread"])


@real_data
def test_a_box_outside_its_image_in_buildings_is_reported() -> None:
    samples, findings = read(SHARED / "data/buildings")
    assert Counter(s.split for s in samples) == {"train": 117, "val": 9, "test": 32}
    assert {i.label for s in samples for i in s.instances} == {"building"}
    assert not [f for f in findings if f.severity is Severity.ERROR], findings[:3]


def _write(folder: Path, annotations: list[dict[str, Any]], **image: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "a.png")
    listed = {"id": 1, "file_name": "a.png", "height": 20, "width": 30, **image}
    content = {"images": [listed], "annotations": annotations, "categories": [{"id": 1, "name": "crack"}]}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def _annotation(**fields: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 8], "area": 80, "iscrowd": 0, **fields}


def test_both_kinds_of_rle_and_polygons_give_the_masks_of_pycocotools(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:11, 2:12] = 1
    rle = encode(mask)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.T.ravel(), 2]))).tolist()
    polygon = [2.3, 3.1, 11.7, 3.4, 9.2, 10.6]
    annotations = [
        _annotation(id=1, segmentation={"size": [20, 30], "counts": rle.counts.decode()}),
        _annotation(id=2, segmentation={"size": [20, 30], "counts": runs}, bbox=[2, 3, 10, 7.5]),
        _annotation(id=3, segmentation=[polygon]),
    ]
    samples, findings = read(_write(tmp_path, annotations))
    assert findings == []
    found = [decode(i.mask) for i in samples[0].instances if i.mask]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], 20, 30)))
    assert np.array_equal(found[0], mask)
    assert np.array_equal(found[1], mask)
    assert np.array_equal(found[2], expected)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"segmentation": [[1, 2, float("nan"), 4, 5, 6]]}, "number-invalid"),
        ({"segmentation": [[1, 2, None, 4, 5, 6]]}, "number-invalid"),
        ({"segmentation": "polygon"}, "segmentation-malformed"),
        ({"segmentation": {"size": [20, 30]}}, "rle-malformed"),
        ({"segmentation": {"size": [30, 20], "counts": [600]}}, "rle-malformed"),
        ({"segmentation": {"size": [20, 30], "counts": "\u00e9"}}, "rle-malformed"),
        ({"segmentation": {"size": [20, 30], "counts": [float("inf")]}}, "rle-malformed"),
        ({"segmentation": {"size": None, "counts": [600]}}, "rle-malformed"),
        ({"segmentation": [], "bbox": [1, 2, 3]}, "box-malformed"),
        ({"segmentation": [], "bbox": [1, 2, -3, 4]}, "box-malformed"),
        ({"segmentation": [], "bbox": None}, "number-invalid"),
        ({"category_id": 99}, "category-unknown"),
        ({"image_id": 99}, "image-unknown"),
    ],
)
def test_what_cannot_be_mended_is_an_error_that_names_the_annotation(
    tmp_path: Path, fields: dict[str, Any], code: str
) -> None:
    samples, findings = read(_write(tmp_path, [_annotation(**fields)]))
    assert [(f.code, f.severity, f.annotation) for f in findings] == [(code, Severity.ERROR, "7")]
    assert samples[0].instances == ()


@pytest.mark.parametrize(
    ("score", "read_as", "codes"),
    [(0.25, 0.25, []), ("0.25", 0.25, []), (None, 1, []), (7, 1, ["annotation-repaired"])],
)
def test_the_score_of_a_pseudo_label_is_read_and_an_impossible_one_is_reported(
    tmp_path: Path, score: Any, read_as: float, codes: list[str]
) -> None:
    samples, findings = read(_write(tmp_path, [_annotation(score=score)]))
    assert [i.score for i in samples[0].instances] == [read_as]
    assert [f.code for f in findings] == codes


def test_a_polygon_reaching_far_outside_is_cut_without_taking_gigabytes(tmp_path: Path) -> None:
    far = [[-1e12, -1e12, 1e12, -1e12, 1e12, 10, -1e12, 10]]
    samples, findings = read(_write(tmp_path, [_annotation(segmentation=far)]))
    assert [f.severity for f in findings] == [Severity.REPAIRED]
    assert samples[0].instances[0].mask is not None
    assert samples[0].instances[0].mask.box_xyxy == (0, 0, 30, 10)


def test_boxes_without_masks_are_no_finding_where_the_whole_file_has_none(tmp_path: Path) -> None:
    samples, findings = read(_write(tmp_path, [_annotation()]))
    assert findings == []
    assert samples[0].instances[0].mask is None
    assert samples[0].instances[0].box_xyxy == (2, 3, 12, 11)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_on_the_stored_pixels_of_a_turned_photo_are_turned_with_it(
    tmp_path: Path, orientation: int
) -> None:
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[3:11, 2:12] = 255
    path = _write(tmp_path, [_annotation(segmentation=[[2, 3, 12, 3, 12, 11, 2, 11]]), _annotation(id=8)])
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    (sample,), findings = read(path)
    assert [f.code for f in findings if f.severity is Severity.REPAIRED] == ["exif-turned"]
    assert sample.size_hw == (30, 20)
    from segdist.reading.examples import decode_image

    upright = decode_image((tmp_path / "a.png").read_bytes())[..., 0] > 0
    masked, boxed = sample.instances
    assert masked.mask is not None
    assert np.array_equal(decode(masked.mask), upright)
    assert masked.box_xyxy == boxed.box_xyxy == encode(upright).box_xyxy


def test_a_missing_image_a_missing_file_and_a_file_that_is_no_coco_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path, [], file_name="gone.png")
    _, findings = read(path)
    assert ("image-missing", "gone.png") in [(f.code, f.image) for f in findings]
    with pytest.raises(DataError, match=r"There is no .*nowhere"):
        Format(Options(path=str(tmp_path / "nowhere"))).signature()
    path.write_text("[]")
    with pytest.raises(DataError, match="must be a COCO file"):
        read(path)
    path.write_text("{")
    with pytest.raises(DataError, match="must be JSON"):
        read(path)
    path.unlink()
    with pytest.raises(DataError, match="holds no COCO annotations"):
        read(tmp_path)


def test_the_signature_changes_when_an_image_or_the_annotations_do(tmp_path: Path) -> None:
    path = _write(tmp_path, [_annotation()])
    before = Format(Options(path=str(path))).signature()
    assert Format(Options(path=str(path))).signature() == before
    (tmp_path / "a.png").write_bytes(b"other")
    assert Format(Options(path=str(path))).signature() != before


def test_the_same_export_is_read_from_an_object_store(tmp_path: Path, s3_bucket: str) -> None:
    from segdist.core import storage

    _write(tmp_path, [_annotation()])
    for file in tmp_path.iterdir():
        storage.write_atomic(f"{s3_bucket}/export/{file.name}", file.read_bytes())
    source = Format(Options(path=f"{s3_bucket}/export"))
    (sample,) = source.read(lambda finding: pytest.fail(str(finding)))
    assert source.image_bytes(sample) == (tmp_path / "a.png").read_bytes()
    assert source.signature()


def test_copies_of_one_source_share_their_group() -> None:
    assert source_stem("IMG_1_jpg.rf.0123.jpg") == source_stem("IMG_1_jpg.rf.4567.jpg") == "IMG_1_jpg"
    assert source_stem("folder/photo.png") == "photo"


def _years(folder: Path, *, train: str = "{}", val: str = "{}") -> Path:
    """COCO's own layout, with images that are called the same in both splits; gives the file names as written."""
    (folder / "annotations").mkdir(parents=True)
    for number, (split, written) in enumerate({"train": train, "val": val}.items()):
        (folder / f"{split}2017").mkdir()
        Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / f"{split}2017" / "0000.png")
        content = {
            "images": [{"id": 1, "file_name": written.format("0000.png"), "width": 40, "height": 30}],
            "categories": [{"id": 1, "name": "crack"}],
            "annotations": [_annotation()],
        }
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("written", ["{}", "C:\\coco\\SPLIT2017\\{}", "/home/someone/SPLIT2017/{}", "SPLIT2017\\{}"])
def test_each_split_finds_its_image_among_those_of_one_name(tmp_path: Path, written: str) -> None:
    folder = _years(tmp_path / "coco", train=written.replace("SPLIT", "train"), val=written.replace("SPLIT", "val"))
    findings: list[Finding] = []
    samples = list(Format(Options(path=str(folder))).read(findings.append))
    assert [s.image_uri.removeprefix(f"{folder}/") for s in samples] == ["train2017/0000.png", "val2017/0000.png"]
    assert {f.code for f in findings} <= {"image-renamed"}


def test_an_image_that_several_files_could_be_is_named_with_them(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        (tmp_path / camera).mkdir()
        Image.new("RGB", (40, 30)).save(tmp_path / camera / "0001.png")
    findings: list[Finding] = []
    list(Format(Options(path=str(_write(tmp_path, [_annotation()], file_name="0001.png")))).read(findings.append))
    (found,) = (f for f in findings if f.code == "image-missing")
    assert "cam1/0001.png" in found.message
    assert "cam2/0001.png" in found.message


def test_images_of_lvis_are_found_by_their_address(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "0001.jpg")
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/val2017/0001.jpg", "height": 20, "width": 30}
    cup = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8]}
    content = {"images": [image], "annotations": [{**cup, "area": 32}], "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    (sample,), _ = read_all(Format(Options(path=str(tmp_path / "lvis.json"))))
    assert (sample.image_id, sample.image_uri) == ("val2017/0001.jpg", str(tmp_path / "0001.jpg"))
    assert [i.label for i in sample.instances] == ["cup"]
