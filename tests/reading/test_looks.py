"""What lies beside images is read or named; images with annotations that nothing reads are never taken as bare ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segdist.cli.data import app
from segdist.core.errors import DataError
from segdist.core.records import Finding
from segdist.formats import images as bare
from segdist.formats.coco import Format as Coco
from segdist.formats.coco import Options as CocoOptions
from segdist.reading.coco.json_lists import outline
from segdist.reading.guess import guess_format
from segdist.reading.listing import Listing
from segdist.reading.looks import looks_of
from tests.formats.reading import read_all
from tests.formats.test_contract import EXAMPLES

BIG = "A" * 100_000
"""An `imageData`, or an `info`, that is longer than any look at the beginning of a file."""
SHAPE = {"label": "crack", "points": [[2, 3], [20, 3], [20, 15]], "group_id": None, "shape_type": "polygon"}
OTHER_TOOLS: dict[str, tuple[str, str]] = {
    "seg.geojson": ('{"type": "FeatureCollection", "features": []}', "GeoJSON"),
    "0.jpg.json": ('{"description": "", "size": {"height": 1}, "objects": []}', "Supervisely"),
    "darwin.json": ('{"version": "2.0", "item": {"name": "0.jpg"}, "annotations": []}', "V7 Darwin"),
    "datumaro.json": ('{"info": {}, "categories": {}, "items": []}', "Datumaro"),
    "bdd.json": ('[{"name": "0.jpg", "labels": []}]', "BDD100K"),
    "labelbox.json": ('[{"ID": "x", "Labeled Data": "u"}]', "Labelbox"),
    "results.json": ('[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "COCO results"),
    "own.json": ('{"version": 1, "boxes": [[1, 2, 3, 4]]}', "JSON with `boxes`"),
    "0.json": ('{"anything": 1}', "JSON"),
    "broken.json": ('{"annotations": [', "JSON"),
    "via3.json": ('{"project": {}, "config": {}, "attribute": {}, "file": {}, "metadata": {}, "view": {}}', "VIA 3"),
    "dlib.xml": ("<?xml version='1.0'?>\n<!-- imglab --><dataset><images/></dataset>", "`dataset`"),
    "boxes.csv": ("filename,width,height,class,xmin,ymin,xmax,ymax\n0.jpg,3,3,a,1,1,2,2\n", "CSV"),
    "train.csv": ("ImageId;EncodedPixels\n0.jpg;1 3\n", "CSV"),
    "truth.csv": ("0.jpg,crack,1\n", "CSV"),
    "0.txt": ("crack at the left", "text of the same name"),
    "wider_gt.txt": ("0.jpg\n1\n0.jpg 449 330 122 149 0 0\n", "text with boxes"),
    "a.tfrecord": ("x", "TFRecord"),
    "b.record": ("x", "TFRecord"),
    "gt.mat": ("x", "MATLAB"),
    "0.npy": ("x", "NumPy"),
    "lines.jsonl": ('{"image": "0.jpg", "objects": []}\n', "JSON lines"),
    "boxes.parquet": ("x", "Parquet"),
    "export.ndjson": ("{}", "JSON lines"),
    "train.tfrecord-00000-of-00002": ("x", "TFRecord"),
    "roofs.kml": ("<kml/>", "KML"),
    "roofs.gpkg": ("x", "GeoPackage"),
    "output.manifest": ('{"source-ref": "s3://x/0.jpg", "labels": {}}', "JSON lines"),
    "coco.json.gz": ("x", "unpack it"),
    "labels.zip": ("x", "unpack it"),
    "scale.json": ('[{"task_id": "5", "params": {"attachment": "s3://x/0.jpg"}, "response": {}}]', "JSON about images"),
    "vott.json": ('{"assets": {"a": {"asset": {"name": "0.jpg"}, "regions": []}}}', "JSON about images"),
    "hasty.json": ('{"images": [{"image_name": "0.jpg", "labels": []}]}', "JSON about images"),
    "numbers.json": ('{"file": "0.jpg", "at": [1, 2, 3, 4]}', "JSON about images"),
    "classes.json": ('{"0.jpg": "crack"}', "JSON about images"),
    "0.jpg___objects.json": ('[{"type": "polygon", "points": [1, 1, 5, 5, 1, 9]}]', "`points`"),
    "boxes.yaml": ("0.jpg:\n  - {box: [1, 2, 3, 4]}\n", "YAML about images"),
    "truth.txt": ("0.jpg 0\n1.jpg 3\n", "text about images"),
    "wider_face.txt": ("0--parade/0.jpg\n1\n449 330 122 149 0 0\n", "text with boxes"),
}
HARMLESS = {
    "README.txt": "crack photos 2024, camera 3 at 1.5 m",
    "camera.json": '{"make": "x", "exposure": 3}',
    "classes.txt": "crack\nseam\n",
    "split.txt": "0.jpg\n1.jpg\n",
    "pairs.txt": "images/0.jpg masks/0.png\n",
    "photos.txt": "0.jpg shows a crack\nfrom the left\n",
    "split.json": '{"train": ["0.jpg"], "val": ["photos\\/1.jpg"]}',
    "dataset.yaml": "path: .\nnames: [crack]\n",
    "photos.zip": "x",
    "weather.csv": "day,rain\n1,0\n",
    "notes.md": "# x",
}


def photos(folder: Path, *names: str) -> Path:
    values = np.random.default_rng(0)
    for name in names or ("0.jpg", "1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.integers(0, 255, (24, 32, 3)).astype(np.uint8)).save(folder / name)
    return folder


def validated(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["validate", str(folder), "--json", *options])
    content: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, content


@pytest.mark.parametrize("name", OTHER_TOOLS)
def test_annotations_that_no_format_reads_stop_and_are_named_with_what_they_look_like(
    tmp_path: Path, name: str
) -> None:
    text, kind = OTHER_TOOLS[name]
    (photos(tmp_path) / name).write_text(text)
    code, content = validated(tmp_path)
    assert code == 2
    found = content["errors"][0]
    assert (found["code"], found["file"]) == ("annotations-unread", str(tmp_path / name))
    assert kind in found["message"]
    result = CliRunner().invoke(
        app, ["convert", str(tmp_path), "-o", str(tmp_path / "out"), "--to", "coco", "--skip-errors"]
    )
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", OTHER_TOOLS)
def test_images_alone_are_read_on_request_and_the_annotations_are_still_named(tmp_path: Path, name: str) -> None:
    text, kind = OTHER_TOOLS[name]
    (photos(tmp_path) / name).write_text(text)
    code, content = validated(tmp_path, "--format", "images")
    assert (code, content["images"]) == (0, 2)
    (found,) = content["warnings"]
    assert kind in found["message"]


def test_what_says_nothing_about_images_is_no_annotation(tmp_path: Path) -> None:
    for name, text in HARMLESS.items():
        (photos(tmp_path) / name).write_text(text)
    assert validated(tmp_path)[1]["errors"] == []
    assert read_all(bare.Format(bare.Options(path=str(tmp_path))))[1] == []


@pytest.mark.parametrize("masks", ["{}.png", "{}_mask.png", "masks/{}.jpg", "annotations/{}_seg.bmp", "{}-label.jpg"])
def test_mask_images_are_no_photos(tmp_path: Path, masks: str) -> None:
    for number in range(2):
        file = photos(tmp_path, f"{number}.jpg") / masks.format(number)
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.eye(24, 32, dtype=np.uint8) * 255).save(file)
    with pytest.raises(DataError, match="png_masks"):
        guess_format(str(tmp_path))
    _, findings = read_all(bare.Format(bare.Options(path=str(tmp_path))))
    assert [f.code for f in findings] == ["annotations-unread"]
    assert "png_masks" in findings[0].message
    assert "0.jpg," not in findings[0].message.replace("/0.jpg", "")


def test_photos_of_several_cameras_and_sizes_are_no_masks(tmp_path: Path) -> None:
    photos(tmp_path, "cam1/0.png", "cam2/0.png", "cam2/0_small.jpg", "grey/0.png")
    grey_HW = np.random.default_rng(1).integers(0, 255, (24, 32)).astype(np.uint8)
    Image.fromarray(grey_HW).save(tmp_path / "grey" / "0.png")
    assert guess_format(str(tmp_path)) == "images"


def test_labelme_files_count_wherever_their_shapes_stand_and_however_many_others_lie_before(tmp_path: Path) -> None:
    for number in range(9):
        photos(tmp_path, f"{number}.jpg")
        content = {"imageData": BIG, "imagePath": f"{number}.jpg", "shapes": [SHAPE], "version": "5"}
        (tmp_path / f"{number}.json").write_text(json.dumps(content, sort_keys=True))
    for number in range(9):
        (tmp_path / f"-{number}.json").write_text('{"make": 3}')
    assert guess_format(str(tmp_path)) == "labelme"
    _, found = validated(tmp_path)
    assert [found["images"], found["instances"], found["errors"]] == [9, 9, []]


@pytest.mark.parametrize("first", ["info", "licenses", "zzz", "type"])
def test_coco_counts_whatever_its_first_key_is(tmp_path: Path, first: str) -> None:
    EXAMPLES["coco"](tmp_path)
    content = json.loads((tmp_path / "coco.json").read_text())
    (tmp_path / "coco.json").write_text(json.dumps({first: {"text": BIG * 2}, **content}))
    assert guess_format(str(tmp_path)) == "coco"
    code, found = validated(tmp_path)
    assert (code, found["instances"]) == (0, 2)


def test_json_of_other_kinds_beside_coco_is_named_and_not_in_its_way(tmp_path: Path) -> None:
    EXAMPLES["coco"](tmp_path)
    (tmp_path / "camera.json").write_text('{"make": 3}')
    (tmp_path / "darwin.json").write_text(OTHER_TOOLS["darwin.json"][0])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "other.json").write_text((tmp_path / "coco.json").read_text())
    samples, findings = read_all(Coco(CocoOptions(path=str(tmp_path))))
    assert len(samples) == 3
    assert [(f.code, Path(f.file).name) for f in findings] == [
        ("annotations-unread", "darwin.json"),
        ("annotations-unread", "other.json"),
    ]


def test_json_of_millions_of_quotes_is_looked_at_once(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "odd.json").write_text('{"a": \\"' + '\\"' * (1 << 20) + '""}')
    assert looks_of(Listing(str(tmp_path)))["odd.json"] in ("", "broken JSON")


@pytest.mark.parametrize("name", ["captions_val2017.json", "panoptic_val2017.json", "stuff_val2017.json"])
def test_files_of_coco_that_hold_no_objects_are_named(tmp_path: Path, name: str) -> None:
    (photos(tmp_path) / name).write_text('{"images": [], "annotations": [], "categories": []}')
    code, content = validated(tmp_path)
    assert code == 2
    assert f"only {name}" in content["errors"][0]["message"]


def test_coco_deeper_below_is_read(tmp_path: Path) -> None:
    options = EXAMPLES["coco"](tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "coco.json").rename(tmp_path / "export" / "result.json")
    assert guess_format(options["path"]) == "coco"
    assert validated(tmp_path)[1]["instances"] == 2


def test_twins_in_another_format_are_named_once_for_each_kind(tmp_path: Path) -> None:
    EXAMPLES["coco"](tmp_path)
    for number in range(6):
        (tmp_path / f"{number}.xml").write_text("<annotation/>")
    found: list[Finding] = []
    assert guess_format(str(tmp_path), found.append) == "coco"
    assert [f.code for f in found] == ["format-ambiguous"]
    _, findings = read_all(Coco(CocoOptions(path=str(tmp_path))))
    (one,) = findings
    assert "0.xml, 1.xml, 2.xml, 3.xml and 2 more: looks like voc" in one.message
    assert "--format voc" in one.message


def test_labels_of_yolo_beside_their_images_are_yolo(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "0.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "1.txt").write_text("")
    (tmp_path / "classes.txt").write_text("crack\n")
    assert guess_format(str(tmp_path)) == "yolo"
    _, content = validated(tmp_path)
    assert (content["instances"], content["errors"], content["warnings"]) == (1, [], [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_files_in_any_encoding_are_known(tmp_path: Path, encoding: str) -> None:
    photos(tmp_path)
    (tmp_path / "0.json").write_bytes(json.dumps({"é": "é", "shapes": []}, ensure_ascii=False).encode(encoding))
    (tmp_path / "a.xml").write_bytes("<?xml version='1.0'?><annotations><image/></annotations>".encode(encoding))
    looks = looks_of(Listing(str(tmp_path)))
    assert [looks["0.json"], looks["a.xml"]] == ["labelme", "cvat"]


@pytest.mark.parametrize(
    ("text", "keys", "first", "is_whole"),
    [
        ('{"a": "]{", "b": [{"x": [1]}], "c": {"d": {}}}', {"b": "[", "c": "{"}, '{"d": {}}', True),
        ('[1, "{", {"a": "}"}, {"b": 1}]', {}, '{"a": "}"}', True),
        ('{"b": [1, {', {"b": "["}, "", False),
        ("", {}, "", False),
        ("no json", {}, "", False),
        ("{}}", {}, "", False),
    ],
)
def test_an_outline_is_what_json_holds_at_its_top(text: str, keys: dict[str, str], first: str, is_whole: bool) -> None:
    found = outline(text.encode())
    assert (found.keys, found.first.decode(), found.is_whole) == (keys, first, is_whole)


def test_an_outline_of_a_large_text_is_that_of_a_small_one() -> None:
    content = {
        "info": {"text": BIG * 50},
        "images": [{"id": n} for n in range(1000)],
        "annotations": [],
        "categories": [],
    }
    found = outline(json.dumps(content).encode())
    assert found.keys == {"info": "{", "images": "[", "annotations": "[", "categories": "["}
    assert found.is_whole


def test_large_files_are_looked_at_through_a_window(tmp_path: Path) -> None:
    photos(tmp_path)
    for name, end in (("whole.json", "]}"), ("cut.json", ""), ("odd.json", "]}}")):
        (tmp_path / name).write_text('{"imageData": "' + "A" * (1 << 24) + '", "shapes": [{"a": 1}' + end)
    looks = looks_of(Listing(str(tmp_path)))
    assert {name: looks[name] for name in ("whole.json", "cut.json", "odd.json")} == {
        "whole.json": "labelme",
        "cut.json": "labelme",
        "odd.json": "broken JSON",
    }
