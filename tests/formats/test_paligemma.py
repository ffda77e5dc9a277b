"""Masks and boxes in PaliGemma's JSON lines, out and back."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segdist.converting.convert import convert
from segdist.core.errors import DataError, SpecError
from segdist.core.masks import encode
from segdist.core.records import Finding, Sample, Severity
from segdist.formats.paligemma import Format, Options
from segdist.nets.paligemma.answers import parse
from segdist.nets.paligemma.codec import MaskCodec
from segdist.nets.paligemma.codec_files import digest, save_codec

CODES = "".join(f"<seg{n:03d}>" for n in range(16))
OBJECT = f"<loc0100><loc0200><loc0500><loc0700>{CODES} crack"


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((64, 96, 3), 80, np.uint8)).save(folder / "a.png")
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"image": "a.png", **row}) for row in rows))
    return folder


def read(folder: Path, **options: Any) -> tuple[Sample, list[Finding]]:
    findings: list[Finding] = []
    (sample,) = Format(Options(path=str(folder), **options)).read(findings.append)
    return sample, findings


def test_masks_of_our_own_codec_are_decoded_and_those_of_an_unknown_one_are_read_as_boxes(tmp_path: Path) -> None:
    row = {"prefix": "segment crack", "suffix": OBJECT}
    ours, found = read(written(tmp_path / "a", [{**row, "mask_codec": digest()}]))
    assert ours.instances[0].mask is not None
    assert not found
    theirs, found = read(written(tmp_path / "b", [row]))
    assert theirs.instances[0].mask is None
    assert [(f.code, f.severity) for f in found] == [("masks-read-as-boxes", Severity.WARNING)]
    assert "`codec`" in found[0].message
    named, found = read(tmp_path / "b", codec="shipped")
    assert named.instances == ours.instances
    assert not found


def test_a_codec_that_did_not_write_the_masks_is_an_error(tmp_path: Path) -> None:
    save_codec(MaskCodec(), tmp_path / "other.safetensors")
    folder = written(tmp_path / "a", [{"prefix": "segment crack", "suffix": OBJECT, "mask_codec": digest()}])
    _, found = read(folder, codec=str(tmp_path / "other.safetensors"))
    assert (found[0].code, found[0].severity, found[0].annotation) == ("codec-differs", Severity.ERROR, "line 1")


def test_an_answer_to_any_question_is_read_and_a_caption_is_not(tmp_path: Path) -> None:
    rows = [
        {"prefix": "where is the crack?", "suffix": OBJECT},
        {"prefix": "where is the seam?", "suffix": ""},
        {"prefix": "caption en", "suffix": "a wall with a crack"},
    ]
    sample, found = read(written(tmp_path, rows), codec="shipped")
    assert len(sample.instances) == 1
    assert [f.code for f in found] == ["task-unread"]


def drawn(tmp_path: Path) -> str:
    """A COCO data set with masks: two large discs of two classes, and an image without any."""
    folder = tmp_path / "in"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(2):
        Image.fromarray(np.full((64, 96, 3), 80, np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
    for number, (x, radius) in enumerate([(25, 20), (70, 16)]):
        mask = np.zeros((64, 96), np.uint8)
        cv2.circle(mask, (x, 32), radius, 1, -1)
        rle = encode(mask)
        box = [*rle.box_xyxy[:2], 2 * radius + 1, 2 * radius + 1]
        counts = {"size": [64, 96], "counts": rle.counts.decode()}
        annotations.append({"id": number, "image_id": 0, "category_id": number, "bbox": box, "segmentation": counts})
    categories = [{"id": 0, "name": "disc"}, {"id": 1, "name": "coin"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return str(folder)


def lines(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]


def test_coco_masks_go_out_and_come_back_with_the_loss_stated(tmp_path: Path) -> None:
    result = convert(drawn(tmp_path), str(tmp_path / "out"), to="paligemma")
    rows = lines(tmp_path / "out")
    asked = [("segment coin", 1), ("segment disc", 1), ("segment coin", 0), ("segment disc", 0)]
    assert [(r["prefix"], len(parse(r["suffix"]).objects)) for r in rows] == asked
    assert all(o.codes for r in rows for o in parse(r["suffix"]).objects)
    trip = result["round_trip"]
    assert trip["instances_back"] == trip["masks"] == trip["images_back"] == 2
    assert trip["mask_iou_min"] > 0.8
    assert {entry["code"] for entry in result["losses"]} >= {"mask-coded"}
    back = convert(str(tmp_path / "out"), str(tmp_path / "coco"), to="coco")
    assert back["round_trip"]["masks_exact"] == back["masks"] == 2


def test_synonyms_and_templates_are_asked_and_the_answer_names_the_class(tmp_path: Path) -> None:
    options = {"prompt": "find every {label}", "synonyms": {"disc": ["circle"]}, "codec": ""}
    convert(drawn(tmp_path), str(tmp_path / "out"), to="paligemma", write_options=options)
    rows = lines(tmp_path / "out")
    assert [r["prefix"] for r in rows[1::2]] == ["find every disc", "find every circle"]
    assert parse(rows[1]["suffix"]).objects[0].label == "disc"
    assert parse(rows[1]["suffix"]).objects[0].codes is None


def test_one_line_may_ask_for_all_classes(tmp_path: Path) -> None:
    convert(drawn(tmp_path), str(tmp_path / "out"), to="paligemma", write_options={"lines": "image"})
    rows = lines(tmp_path / "out")
    assert [r["prefix"] for r in rows] == ["segment coin ; disc"] * 2
    assert [o.label for o in parse(rows[0]["suffix"]).objects] == ["disc", "coin"]


def test_nothing_is_left_behind_where_a_class_name_or_a_question_cannot_stand(tmp_path: Path) -> None:
    source = drawn(tmp_path)
    with pytest.raises(SpecError, match="must hold"):
        convert(source, str(tmp_path / "out"), to="paligemma", write_options={"prompt": "segment"})
    file = Path(source) / "coco.json"
    file.write_text(file.read_text().replace('"coin"', '"coin<seg001>"'))
    with pytest.raises(DataError, match="coin<seg001>"):
        convert(source, str(tmp_path / "out"), to="paligemma")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
