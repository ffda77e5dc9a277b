"""Text of other tools in the encodings and with the line ends that they write."""

import json
from pathlib import Path
from typing import Any

import pytest

from segdist.core import registry
from segdist.core.records import Finding, Sample
from segdist.formats.yolo import Format, Options
from tests.formats.reading import read_all
from tests.formats.test_contract import EXAMPLES
from tests.formats.test_yolo import write

LABEL = "0 0.1 0.1 0.9 0.1 0.9 0.9\n"
ENCODINGS = {"utf-8": 0, "utf-8-sig": 0, "utf-16": 1, "utf-16-le": 1, "cp1252": 1}
"""And how many repairs each is."""


def read(name: str, options: dict[str, Any]) -> tuple[list[Sample], list[Finding]]:
    module = registry.load("formats", name)
    return read_all(module.Format(module.Options.model_validate(options)))


def labels(samples: list[Sample]) -> set[str]:
    return {i.label for s in samples for i in s.instances}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_a_list_of_classes_in_any_encoding_names_them_without_a_mark(tmp_path: Path, name: str, encoding: str) -> None:
    write(
        tmp_path, {"images/a.jpg": None, "labels/a.txt": LABEL, name: "façade\r\ncrack\r\n".encode(encoding)}, yaml=None
    )
    samples, findings = read("yolo", {"path": str(tmp_path)})
    assert labels(samples) == {"façade"}
    assert [f.code for f in findings] == ["encoding-repaired"] * ENCODINGS[encoding]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_data_yaml_and_a_list_of_images_are_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = "train: train.txt\nnames: [façade]\n"
    files = {"images/é.jpg": None, "labels/é.txt": LABEL, "train.txt": "./images/é.jpg\n".encode(encoding)}
    write(tmp_path, files, yaml=None)
    (tmp_path / "data.yaml").write_bytes(text.encode(encoding))
    samples, findings = read("yolo", {"path": str(tmp_path)})
    assert [(s.image_id, s.split, len(s.instances)) for s in samples] == [("images/é.jpg", "train", 1)]
    assert labels(samples) == {"façade"}
    assert [f.code for f in findings] == ["encoding-repaired"] * 2 * ENCODINGS[encoding]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", " \t\r\n"])
def test_label_files_in_any_encoding_with_any_line_end_hold_the_same(tmp_path: Path, encoding: str, end: str) -> None:
    text = f"{LABEL.strip()}{end}{end}0 0.1 0.1 0.5 0.1 0.5 0.9{end}"
    write(tmp_path, {"images/a.jpg": None, "labels/a.txt": text.encode(encoding)})
    (sample,), findings = read("yolo", {"path": str(tmp_path)})
    assert len(sample.instances) == 2
    assert all(f.code == "encoding-repaired" for f in findings)


def test_names_of_data_yaml_are_taken_as_they_are_written(tmp_path: Path) -> None:
    written = ["no", "yes", "1000", "null", "1_0", "0x10", "2020-01-01", "~", "on", "1e3", ".nan"]
    lines = [f"{n} {LABEL[2:]}" for n in range(len(written))]
    write(tmp_path, {f"images/{n}.jpg": None for n in range(len(written))}, yaml=f"names: [{', '.join(written)}]\n")
    (tmp_path / "labels").mkdir()
    for n, line in enumerate(lines):
        (tmp_path / "labels" / f"{n}.txt").write_text(line)
    samples, findings = read("yolo", {"path": str(tmp_path)})
    assert labels(samples) == set(written)
    assert findings == []


def test_names_by_number_and_an_empty_split_are_read_as_written(tmp_path: Path) -> None:
    text = "train: images\nval: null\ntest:\nnames:\n  0: no\n  1: 1000\n"
    write(tmp_path, {"images/a.jpg": None, "labels/a.txt": f"1 {LABEL[2:]}"}, yaml=text)
    samples, findings = read("yolo", {"path": str(tmp_path)})
    assert labels(samples) == {"1000"}
    assert findings == []


@pytest.mark.parametrize(
    ("written", "label"),
    [("0.0", "crack"), ("1.0e+00", "seam"), ("0.000000000000000000e+00", "crack"), ("+1", "seam"), ("00", "crack")],
)
def test_class_ids_may_be_written_as_numpy_writes_them(tmp_path: Path, written: str, label: str) -> None:
    write(tmp_path, {"images/a.jpg": None, "labels/a.txt": LABEL.replace("0", written, 1)})
    samples, findings = read_all(Format(Options(path=str(tmp_path))))
    assert labels(samples) == {label}
    assert findings == []


@pytest.mark.parametrize("written", ["0.5", "1_0", "²", "nan", "inf", "-1", "1e400", "0x0"])
def test_what_is_no_whole_number_is_no_class_id(tmp_path: Path, written: str) -> None:
    write(tmp_path, {"images/a.jpg": None, "labels/a.txt": LABEL.replace("0", written, 1)})
    _, findings = read_all(Format(Options(path=str(tmp_path))))
    assert [f.code for f in findings] == ["category-unknown"]


def test_a_list_of_images_of_another_machine_means_the_files_with_the_same_ending_and_names_what_is_gone(
    tmp_path: Path,
) -> None:
    listed = "C:\\data\\train\\images\\a.jpg\n/home/x/train/images/gone.jpg\n"
    files = {f"{split}/{kind}": content for split in ("train", "val") for kind, content in _pair().items()}
    write(tmp_path, {**files, "train.txt": listed}, yaml="train: train.txt\nval: val/images\nnames: [crack]\n")
    samples, findings = read("yolo", {"path": str(tmp_path)})
    assert [(s.image_id, s.split) for s in samples] == [("train/images/a.jpg", "train"), ("val/images/a.jpg", "val")]
    assert [(f.code, f.image) for f in findings] == [("image-missing", "/home/x/train/images/gone.jpg")]


def _pair() -> dict[str, Any]:
    return {"images/a.jpg": None, "labels/a.txt": LABEL}


VOC = (
    "{}<annotation><filename>1.png</filename><size><width>32</width><height>24</height></size><object><name>{}</name>"
    "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax><ymax>20</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize(
    ("declared", "encoding", "name", "repairs"),
    [
        ("gb2312", "gb18030", "裂缝", 0),
        ("Shift_JIS", "cp932", "ひび", 0),
        ("EUC-KR", "cp949", "균열", 0),
        ("windows-1252", "cp1252", "façade", 0),
        ("utf-16", "utf-16", "façade", 0),
        ("utf-8", "utf-8-sig", "façade", 0),
        ("utf-8", "cp1252", "façade", 1),
        ("", "cp1252", "façade", 1),
        ("unheard-of", "utf-8", "façade", 0),
    ],
)
def test_voc_is_read_in_the_encoding_that_it_declares_or_really_has(
    tmp_path: Path, declared: str, encoding: str, name: str, repairs: int
) -> None:
    options = EXAMPLES["voc"](tmp_path)
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    (tmp_path / "Annotations" / "1.xml").write_bytes(VOC.format(head, name).encode(encoding))
    samples, findings = read("voc", options)
    assert [i.label for i in samples[1].instances] == [name]
    assert [(f.code, f.image) for f in findings] == [("encoding-repaired", "JPEGImages/1.png")] * repairs


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_labelme_and_json_lines_are_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    for name, file in (("labelme", "1.json"), ("paligemma", "train.jsonl")):
        (tmp_path / name).mkdir()
        options = EXAMPLES[name](tmp_path / name)
        place = tmp_path / name / file
        text = "\n".join(
            json.dumps(json.loads(line), ensure_ascii=False) for line in place.read_text().splitlines()
        ).replace("crack", "fa\u00e7ade")
        place.write_bytes(text.encode(encoding))
        samples, findings = read(name, options)
        assert "fa\u00e7ade" in labels(samples)
        assert [f.code for f in findings] == ["encoding-repaired"] * (encoding != "utf-8-sig")


def test_a_separator_of_unicode_inside_a_value_ends_no_json_line(tmp_path: Path) -> None:
    options = EXAMPLES["paligemma"](tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows[1]["note"] = "a\u2028b\x85c"
    (tmp_path / "train.jsonl").write_text("\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    samples, findings = read("paligemma", options)
    assert (len(samples), findings) == (3, [])
