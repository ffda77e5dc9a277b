"""An annotation that cannot be read is no image without objects: the image is left out, and named."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from segdist.checking.validation import review
from segdist.cli.data import app
from segdist.converting.convert import convert
from segdist.core.records import Finding
from segdist.reading.archived import open_format
from tests.formats.test_contract import EXAMPLES

NUL = b"0 0.5 0.5 0.9 0.5 0.9\x00\x00\x00\x00"


def _row(folder: Path) -> None:
    lines = (folder / "train.jsonl").read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "suffix": "<loc0100><loc0200> crack"})
    (folder / "train.jsonl").write_text("\n".join(lines))


def _polygons(folder: Path) -> None:
    content = json.loads((folder / "coco.json").read_text())
    content["annotations"][0]["segmentation"] = {"size": [24, 32], "counts": "\u00e9"}
    (folder / "coco.json").write_text(json.dumps(content))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "ai2thor": lambda f: (f / "instances" / "1.png").write_bytes(b"\x89PNG"),
    "coco": _polygons,
    "labelme": lambda f: (f / "1.json").write_text('{"shapes": [{'),
    "paligemma": _row,
    "png_masks": lambda f: (f / "masks" / "1.png").write_bytes((f / "masks" / "1.png").read_bytes()[:50]),
    "voc": lambda f: (f / "Annotations" / "1.xml").write_text("<annotation><object>"),
    "yolo": lambda f: (f / "labels" / "1.txt").write_bytes(NUL),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_image_of_an_unreadable_annotation_is_left_out_and_named_even_where_errors_are_skipped(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    options = EXAMPLES[name](tmp_path / "in")
    DAMAGE[name](Path(options["path"]))
    found = review(open_format(name, options), name)
    assert not found.ok
    assert "1." in "".join(f.image or f.file for f in found.findings if f.severity == "error")
    assert sorted(row.image_id[-5] for row in found.rows) == ["0", "2"]
    given = {key: value for key, value in options.items() if key != "path"}
    place, out = options["path"], str(tmp_path / "out")
    result = convert(place, out, to="coco", format_name=name, read_options=given, skip_errors=True)
    assert result["images"] == 2
    listed = [e for e in result["findings"] if e["severity"] in ("error", "skipped")]
    assert sum(e["count"] for e in listed) >= 1


def test_a_mask_image_of_voc_that_is_cut_off_leaves_its_image_out(tmp_path: Path) -> None:
    options = EXAMPLES["voc"](tmp_path)
    (tmp_path / "SegmentationObject").mkdir()
    (tmp_path / "SegmentationObject" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = review(open_format("voc", options), "voc")
    assert [row.image_id for row in found.rows] == ["JPEGImages/0.png", "JPEGImages/1.png"]
    assert [f.code for f in found.findings if f.severity == "error"] == ["mask-unreadable"]


def test_the_command_line_counts_what_was_left_out(tmp_path: Path) -> None:
    options = EXAMPLES["coco"](tmp_path)
    _polygons(tmp_path)
    result = CliRunner().invoke(app, ["validate", options["path"]])
    assert result.exit_code == 2
    assert "skipped[annotations-lost] x1" in result.output
    assert "coco: 2 images" in result.output


def test_an_image_in_which_only_lines_were_drawn_is_no_image_without_objects(tmp_path: Path) -> None:
    """Cracks drawn as lines would teach that there is none where they run."""
    for name, kind in (("line", "linestrip"), ("both", "rectangle"), ("nothing", "")):
        Image.new("RGB", (20, 16), "white").save(tmp_path / f"{name}.jpg")
        drawn = [{"label": "crack", "points": [[2, 2], [9, 9]], "shape_type": one} for one in {"linestrip", kind}]
        shapes = drawn if kind else []
        content = {"shapes": shapes, "imagePath": f"{name}.jpg", "imageData": None, "imageHeight": 16, "imageWidth": 20}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = review(open_format("labelme", {"path": str(tmp_path)}), "labelme")
    assert sorted(row.image_id for row in found.rows) == ["both.jpg", "nothing.jpg"]
    assert [(f.code, f.image) for f in found.findings if f.code == "annotations-lost"] == [
        ("annotations-lost", "line.jpg")
    ]


@pytest.mark.parametrize("target", ["/dev/zero", "gone", "pipe"])
def test_labels_that_are_no_file_are_named_and_their_image_is_left_out(tmp_path: Path, target: str) -> None:
    EXAMPLES["yolo"](tmp_path)
    labels = sorted(tmp_path.rglob("labels/**/*.txt"))[0]
    labels.unlink()
    if target == "pipe":
        os.mkfifo(labels)
    else:
        labels.symlink_to(target)
    findings: list[Finding] = []
    source = open_format("yolo", {"path": str(tmp_path)})
    read = {sample.image_id for sample in source.read(findings.append)}
    assert read
    assert not [name for name in read if Path(name).stem == labels.stem]
    assert {(f.code, Path(f.file).name) for f in findings} >= {("file-broken", labels.name)}


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("yolo", "labels/{stem}.txt"),
        ("yolo", "labels"),
        ("voc", "Annotations/{stem}.xml"),
        ("voc", "Annotations"),
        ("voc", "SegmentationObject/{stem}.png"),
        ("voc", "SegmentationClass"),
        ("png_masks", "masks/{stem}.png"),
        ("png_masks", "masks"),
        ("png_masks", "masks/{stem}"),
    ],
)
def test_a_label_that_is_a_link_to_nowhere_teaches_nothing(tmp_path: Path, name: str, lost: str) -> None:
    images = tmp_path / {"voc": "JPEGImages"}.get(name, "images")
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "a.png")
    Image.new("RGB", (8, 8)).save(images / "b.png")
    label = tmp_path / lost.format(stem="a")
    label.parent.mkdir(exist_ok=True)
    label.symlink_to("gone")
    by_format: dict[str, dict[str, Any]] = {
        "yolo": {"names": ["crack"]},
        "png_masks": {"kind": "binary", "classes": {"1": "crack"}, "images": "images", "masks": "masks"},
    }
    options = by_format.get(name, {})
    findings: list[Finding] = []
    read = [s.image_id for s in open_format(name, {"path": str(tmp_path), **options}).read(findings.append)]
    assert read == ([f"{images.name}/b.png"] if "{stem}" in lost else [])
    assert len([f for f in findings if f.severity == "error" and f.code != "file-broken"]) == 2 - len(read)
