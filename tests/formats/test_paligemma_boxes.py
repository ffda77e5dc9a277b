"""PaliGemma's JSON lines with boxes: the order of the tokens, several lines an image, and the traps of real files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.core.records import Finding, Sample, Severity
from segdist.formats.paligemma import Format, Options
from segdist.reading.guess import guess_format
from tests.formats.reading import read_all

SIZE_HW = (100, 200)
CRACK = "<loc0102><loc0256><loc0512><loc0768> crack"


def row(suffix: Any = CRACK, prefix: Any = "detect crack", image: Any = "a.png") -> str:
    return json.dumps({"image": image, "prefix": prefix, "suffix": suffix})


def write(folder: Path, *lines: str, name: str = "train.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE_HW, 3), np.uint8)).save(folder / "a.png")
    (folder / name).write_text("\n".join(lines))
    return folder


def read(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(Format(Options(path=str(folder), **options)))


@pytest.mark.parametrize("scale", [1023, 1024])
def test_tokens_are_y1_x1_y2_x2_in_steps_of_the_scale(tmp_path: Path, scale: int) -> None:
    write(tmp_path, row())
    assert guess_format(str(tmp_path)) == "paligemma"
    (sample,), findings = read(tmp_path, loc_scale=scale)
    assert findings == []
    assert (sample.image_id, sample.split, sample.size_hw) == ("train/a.png", "train", SIZE_HW)
    (instance,) = sample.instances
    expected = (256 / scale * 200, 102 / scale * 100, 768 / scale * 200, 512 / scale * 100)
    assert np.allclose(instance.box_xyxy, expected, atol=0.2)
    assert (instance.label, instance.mask) == ("crack", None)


def test_several_objects_and_several_questions_about_an_image_are_one_sample(tmp_path: Path) -> None:
    seam = "<loc0000><loc0000><loc1023><loc1023> long seam"
    lines = [
        row(f"{CRACK} ; {seam}", "detect crack ; long seam"),
        row("", "detect wall"),
        row(seam, "detect long seam"),
    ]
    (sample,), findings = read(write(tmp_path, *lines))
    assert [i.label for i in sample.instances] == ["crack", "long seam"]
    assert [(f.code, f.severity, f.annotation) for f in findings] == [
        ("annotation-duplicate", Severity.REPAIRED, "line 3")
    ]


@pytest.mark.parametrize(
    ("line", "code", "severity"),
    [
        ("{", "row-malformed", Severity.ERROR),
        ("[1]", "row-malformed", Severity.ERROR),
        (json.dumps({"image": "a.png", "prefix": "detect crack"}), "row-malformed", Severity.ERROR),
        (row(suffix=None), "row-malformed", Severity.ERROR),
        (row(prefix="caption en", suffix="a wall"), "task-unread", Severity.SKIPPED),
        (row("<loc0102><loc0256><loc0512> crack"), "object-malformed", Severity.ERROR),
        (row("crack"), "object-malformed", Severity.ERROR),
        (row("<loc0512><loc0256><loc0102><loc0768> crack"), "box-empty", Severity.SKIPPED),
        (row(image="b.png"), "image-missing", Severity.ERROR),
        (row(image="../../etc/passwd"), "image-missing", Severity.ERROR),
    ],
)
def test_what_is_wrong_in_a_line_is_named_and_the_other_lines_stay(
    tmp_path: Path, line: str, code: str, severity: Severity
) -> None:
    samples, findings = read(write(tmp_path, row(), line))
    assert [(f.code, f.severity) for f in findings] == [(code, severity)]
    assert [len(s.instances) for s in samples] == [1]


@pytest.mark.parametrize(
    ("name", "split"), [("_annotations.valid.jsonl", "val"), ("test.jsonl", "test"), ("data.jsonl", "")]
)
def test_the_split_is_in_the_name_of_the_file(tmp_path: Path, name: str, split: str) -> None:
    (sample,), findings = read(write(tmp_path, row(), "", name=name))
    assert (sample.split, findings) == (split, [])
