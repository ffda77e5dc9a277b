"""YOLO: where labels and splits are found, what a line may hold, and the traps of real exports."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.core.errors import DataError
from segdist.core.masks import decode
from segdist.core.records import Finding, Sample, Severity
from segdist.formats.yolo import Format, Options
from segdist.reading.guess import guess_format
from tests.formats.reading import read_all

HEIGHT, WIDTH = 20, 40
BOX, SQUARE = "0 0.5 0.5 0.25 0.5", "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"


def photo(orientation: int = 1) -> bytes:
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def write(folder: Path, files: dict[str, Any], *, yaml: str | None = "names: [crack, seam]\n") -> Path:
    """Images (None as content) and text files by path."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = photo() if content is None else content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml)
    return folder


def read(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(Format(Options(path=str(folder), **options)))


def test_a_box_is_centre_and_sides_and_a_polygon_its_corners_as_shares_of_the_image(tmp_path: Path) -> None:
    write(tmp_path, {"images/a.jpg": None, "labels/a.txt": f"{BOX}\n{SQUARE}\n"})
    assert guess_format(str(tmp_path)) == "yolo"
    (sample,), findings = read(tmp_path)
    assert [(f.code, f.annotation) for f in findings] == [("mask-missing", "line 1")], "as COCO reports it"
    box, drawn = sample.instances
    assert (box.label, box.mask, box.box_xyxy) == ("crack", None, (15, 5, 25, 15))
    expected = np.zeros((HEIGHT, WIDTH), np.bool_)
    expected[5:15, 10:30] = True
    assert drawn.label == "seam"
    assert drawn.mask is not None
    assert np.array_equal(decode(drawn.mask), expected)


@pytest.mark.parametrize("ending", ["\r\n", "\n\n", "\n \t \n"])
def test_line_endings_blank_lines_and_a_byte_order_mark_change_nothing(tmp_path: Path, ending: str) -> None:
    (sample,), findings = read(write(tmp_path, {"images/a.jpg": None, "labels/a.txt": f"\ufeff{BOX}{ending}{SQUARE}"}))
    assert [f.code for f in findings] == ["mask-missing"]
    assert [i.label for i in sample.instances] == ["crack", "seam"]


@pytest.mark.parametrize(
    ("line", "code", "severity"),
    [
        ("0 0.5 0.5 0.25 0.5 0.9", "line-malformed", Severity.ERROR),
        ("0 0.5 0.5", "line-malformed", Severity.ERROR),
        ("0", "line-malformed", Severity.ERROR),
        ("7 0.5 0.5 0.25 0.5", "category-unknown", Severity.ERROR),
        ("crack 0.5 0.5 0.25 0.5", "category-unknown", Severity.ERROR),
        ("-1 0.5 0.5 0.25 0.5", "category-unknown", Severity.ERROR),
        ("0 nan 0.5 0.25 0.5", "number-invalid", Severity.ERROR),
        ("0 inf 0.5 0.25 0.5", "number-invalid", Severity.ERROR),
        ("0 0,5 0.5 0.25 0.5", "number-invalid", Severity.ERROR),
        ("0 20 10 10 10", "coordinates-not-relative", Severity.ERROR),
        ("0 0.5 0.5 -0.25 0.5", "box-malformed", Severity.ERROR),
        ("0 0.5 0.5 0 0.5", "box-empty", Severity.SKIPPED),
        ("0 1.5 0.5 0.25 0.5", "box-empty", Severity.SKIPPED),
        ("0 0.95 0.5 0.25 0.5", "annotation-repaired", Severity.REPAIRED),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1", "mask-empty", Severity.SKIPPED),
        (SQUARE, "annotation-duplicate", Severity.REPAIRED),
    ],
)
def test_what_is_wrong_in_a_line_is_named_and_the_other_lines_stay(
    tmp_path: Path, line: str, code: str, severity: Severity
) -> None:
    (sample,), findings = read(write(tmp_path, {"images/a.jpg": None, "labels/a.txt": f"{SQUARE}\n{line}\n"}))
    said = [(f.code, f.severity, f.annotation) for f in findings if f.code != "mask-missing"]
    assert said == [(code, severity, "line 2")]
    assert sample.instances[0].label == "seam"
    assert len(sample.instances) == 1 + (code == "annotation-repaired")


def test_a_fifth_number_is_said_to_be_a_confidence(tmp_path: Path) -> None:
    _, findings = read(write(tmp_path, {"images/a.jpg": None, "labels/a.txt": "0 0.5 0.5 0.25 0.5 0.9"}))
    assert "confidence" in findings[0].message


def test_an_image_without_labels_and_labels_without_an_image_are_named(tmp_path: Path) -> None:
    samples, findings = read(write(tmp_path, {"images/a.jpg": None, "labels/b.txt": BOX, "labels/classes.txt": "x"}))
    assert [s.instances for s in samples] == [()]
    assert sorted((f.code, f.severity) for f in findings) == [
        ("image-missing", Severity.ERROR),
        ("label-file-missing", Severity.WARNING),
    ]


def test_an_empty_label_file_is_an_image_without_objects_and_no_finding(tmp_path: Path) -> None:
    (sample,), findings = read(write(tmp_path, {"images/a.jpg": None, "labels/a.txt": ""}))
    assert (sample.instances, findings) == ((), [])


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("train: train/images\nval: valid/images\n", []),
        ("train: ../train/images\nval: ../valid/images\n", ["split-path-repaired"] * 2),  # as Roboflow writes it
        ("path: /home/me/set\ntrain: train/images\nval: valid/images\n", ["split-path-repaired"] * 2),
        ("train: [train/images]\nval: valid/images\ntest:\n", []),
        ("train: train/images\nval: valid/images\ntest: test/images\n", ["split-path-missing"]),
    ],
)
def test_splits_are_those_of_data_yaml_wherever_its_paths_were_meant_to_be(
    tmp_path: Path, text: str, codes: list[str]
) -> None:
    files = {
        f"{s}/{kind}": c for s in ("train", "valid") for kind, c in (("images/a.jpg", None), ("labels/a.txt", BOX))
    }
    samples, findings = read(write(tmp_path, files, yaml=text + "names: {0: crack}\n"))
    assert {s.image_id: s.split for s in samples} == {"train/images/a.jpg": "train", "valid/images/a.jpg": "val"}
    assert [f.code for f in findings] == codes


@pytest.mark.parametrize("there", ["images", "train/images", "valid/old/images"])
def test_the_folder_of_all_images_or_of_another_split_never_stands_for_one_that_is_missing(
    tmp_path: Path, there: str
) -> None:
    files = {f"{there}/a.jpg": None, f"{there.replace('images', 'labels')}/a.txt": BOX}
    text = f"train: {there}\nval: ../valid/images\ntest: /home/me/test.txt\nnames: [crack]\n"
    samples, findings = read(write(tmp_path, files, yaml=text))
    assert {s.image_id: s.split for s in samples} == {f"{there}/a.jpg": "train"}
    assert [f.code for f in findings] == ["split-path-missing"] * 2
    assert "`../valid/images` or `valid/images`" in findings[0].message


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        (
            "train: /home/me/photos\n",
            {"photos/a.jpg": "train"},
        ),  # all that there is to go by
        ("train: /home/me/photos\nval: photos\n", {"photos/a.jpg": "val"}),
        ("train: photos\nval: /home/me/photos\n", {"photos/a.jpg": "train"}),
        ("train: photos\nval: /home/me/all\n", {"photos/a.jpg": "train", "all/valid/b.jpg": "val"}),
    ],
)
def test_an_ending_is_taken_where_no_other_entry_and_no_folder_claims_it(
    tmp_path: Path, text: str, splits: dict[str, str]
) -> None:
    files = {
        f"{p}.{s}": c for p in ("photos/a", "all/valid/b", "all/train/c") for s, c in (("jpg", None), ("txt", BOX))
    }
    samples, _ = read(write(tmp_path, files, yaml=text + "names: [crack]\n"))
    assert {s.image_id: s.split for s in samples} == splits


def test_a_list_of_images_is_a_split_and_folders_of_no_split_are_named(tmp_path: Path) -> None:
    files = {"images/a.jpg": None, "labels/a.txt": BOX, "images/b.jpg": None, "labels/b.txt": BOX, "more/c.jpg": None}
    files["train.txt"] = "./images/a.jpg\n/data/set/images/b.jpg\n"
    samples, findings = read(write(tmp_path, files, yaml="train: train.txt\nnames: [crack]\n"))
    assert [(s.image_id, s.split) for s in samples] == [("images/a.jpg", "train"), ("images/b.jpg", "train")]
    assert [f.code for f in findings] == ["folder-unread"]


def test_class_names_come_from_the_option_data_yaml_or_classes_txt(tmp_path: Path) -> None:
    files = {"images/a.jpg": None, "labels/a.txt": BOX, "classes.txt": "fissure\n\nseam\n"}
    write(tmp_path, files, yaml=None)
    assert [i.label for i in read(tmp_path)[0][0].instances] == ["fissure"]
    write(tmp_path, {}, yaml="names: {0: crack}\n")
    assert [i.label for i in read(tmp_path)[0][0].instances] == ["crack"]
    assert [i.label for i in read(tmp_path, names=("split",))[0][0].instances] == ["split"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("names: [a\n", "must be YAML"),
        ("names\n", "must hold keys"),
        ("kpt_shape: [17, 3]\nnames: [a]\n", "key points"),
        ("nc: 2  # names\n", "names no classes"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_says_why(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read(write(tmp_path, {"images/a.jpg": None}, yaml=text))


def test_several_data_sets_in_one_folder_are_not_guessed_at(tmp_path: Path) -> None:
    write(tmp_path / "one", {"images/a.jpg": None})
    write(tmp_path / "two", {"images/a.jpg": None})
    with pytest.raises(DataError, match=r"several data\.yaml"):
        read(tmp_path)


def test_labels_of_a_photo_that_exif_turns_are_shares_of_the_upright_image_as_trainers_take_them(
    tmp_path: Path,
) -> None:
    (sample,), findings = read(write(tmp_path, {"images/a.jpg": photo(6), "labels/a.txt": BOX}))
    assert findings == []
    assert sample.size_hw == (WIDTH, HEIGHT)
    assert sample.instances[0].box_xyxy == (7.5, 10, 12.5, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_a_turned_tiff_lie_where_its_viewer_shows_them(tmp_path: Path, orientation: int) -> None:
    from PIL import Image

    from segdist.datasets.checks import check_image

    stored = np.zeros((40, 60, 3), np.uint8)
    stored[4:12, 6:30] = 255
    image = Image.fromarray(stored)
    image.save(tmp_path / "a.tif", tiffinfo={274: orientation})
    shown = np.asarray(Image.open(tmp_path / "a.tif").convert("RGB"))[..., 0] > 0  # Pillow turns TIFFs itself
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    height, width = shown.shape
    x1, x2, y1, y2 = columns[0] / width, (columns[-1] + 1) / width, rows[0] / height, (rows[-1] + 1) / height
    (tmp_path / "a.txt").write_text(f"0 {x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2}\n")
    source = Format(Options(path=str(tmp_path), names=("crack",)))
    (sample,), findings = read_all(source)
    checked, found = check_image(sample, source.image_bytes(sample))
    assert checked is not None
    assert checked.instances[0].mask is not None
    np.testing.assert_array_equal(decode(checked.instances[0].mask), shown)
    assert findings + found == []


def test_a_split_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "images" / "a.png")
    (tmp_path / "data.yaml").write_text("names: [crack]\ntrain: ../train/images\nval: ../valid/images\n")
    findings: list[Finding] = []
    read = [s.split for s in Format(Options(path=str(tmp_path))).read(findings.append)]
    assert read == ["train"]
    (said,) = [f.message for f in findings if f.code == "split-path-missing"]
    assert "`val: ../valid/images` names no folder" in said
    assert f"{tmp_path} has none at `../valid/images` or `valid/images`" in said
