"""Pascal VOC: the devkit's layout and the exports of other tools, masks joined with boxes, and what goes wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdist.core.masks import decode
from segdist.core.records import Finding, Sample, Severity
from segdist.formats.voc import Format, Options
from segdist.reading.guess import guess_format
from tests.formats.reading import read_all

SIZE_HW = (20, 30)
DOG = ("dog", (3, 4, 12, 11), "")
CAT = ("cat", (15, 2, 28, 18), "<difficult>1</difficult>")


def xml(*objects: tuple[str, tuple[Any, ...], str], filename: str = "a.jpg", head: str = "", size: str = "") -> str:
    height, width = SIZE_HW
    size = size or f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    listed = "".join(
        f"<object><name>{name}</name>{rest}<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, rest in objects
    )
    return f"{head}<annotation><filename>{filename}</filename>{size}<segmented>0</segmented>{listed}</annotation>"


def devkit(folder: Path, **files: str) -> Path:
    """Annotations and JPEGImages; a file for each stem."""
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        Image.fromarray(np.zeros((*SIZE_HW, 3), np.uint8)).save(folder / "JPEGImages" / f"{stem}.jpg")
        (folder / "Annotations" / f"{stem}.xml").write_text(text)
    return folder


def mask_image(folder: Path, kind: str, values_HW: np.ndarray[Any, Any], stem: str = "a") -> None:
    (folder / kind).mkdir(exist_ok=True)
    image = Image.fromarray(values_HW.astype(np.uint8), mode="P")
    image.putpalette([c for n in range(256) for c in (n, 255 - n, n // 2)])
    image.save(folder / kind / f"{stem}.png")


def read(folder: Path, **options: Any) -> tuple[list[Sample], list[Finding]]:
    return read_all(Format(Options(path=str(folder), **options)))


def test_boxes_count_from_one_as_in_the_devkit_or_from_zero_where_that_is_said(tmp_path: Path) -> None:
    folder = devkit(tmp_path, a=xml(DOG))
    assert guess_format(str(folder)) == "voc"
    (sample,), findings = read(folder)
    assert findings == []
    assert [(i.label, i.box_xyxy) for i in sample.instances] == [("dog", (2, 3, 12, 11))]
    (sample,), _ = read(folder, first_pixel=0)
    assert [i.box_xyxy for i in sample.instances] == [(3, 4, 12, 11)]
    _, found = read(devkit(tmp_path / "zero", a=xml(("dog", (0, 0, 5, 5), ""))))
    assert [f.code for f in found] == ["box-off-by-one"]


def test_numbers_of_mask_images_become_masks_of_the_objects_and_the_border_belongs_to_nothing(tmp_path: Path) -> None:
    folder = devkit(tmp_path, a=xml(DOG, CAT))
    values_HW = np.zeros(SIZE_HW)
    values_HW[3:11, 2:12], values_HW[1:18, 14:28] = 1, 2
    values_HW[3, 2:12] = 255
    mask_image(folder, "SegmentationObject", values_HW)
    (sample,), findings = read(folder)
    assert findings == []
    assert [i.label for i in sample.instances] == ["dog", "cat"]
    for number, instance in enumerate(sample.instances, 1):
        assert instance.mask is not None
        assert np.array_equal(decode(instance.mask), values_HW == number)


def test_regions_in_another_order_than_the_objects_are_joined_by_their_boxes(tmp_path: Path) -> None:
    folder = devkit(tmp_path, a=xml(DOG, CAT))
    values_HW = np.zeros(SIZE_HW)
    values_HW[3:11, 2:12], values_HW[1:18, 14:28] = 2, 7
    mask_image(folder, "SegmentationObject", values_HW)
    (sample,), findings = read(folder)
    assert findings == []
    assert [i.mask.area for i in sample.instances if i.mask] == [(values_HW == n).sum() for n in (2, 7)]


def test_a_region_without_an_object_takes_its_class_from_the_class_image_or_is_an_error(tmp_path: Path) -> None:
    folder = devkit(tmp_path, a=xml(DOG))
    values_HW = np.zeros(SIZE_HW)
    values_HW[3:11, 2:12], values_HW[12:18, 20:28] = 1, 2
    mask_image(folder, "SegmentationObject", values_HW)
    (sample,), findings = read(folder)
    assert [(f.code, f.severity, f.annotation) for f in findings] == [("instance-unknown", Severity.ERROR, "region 2")]
    mask_image(folder, "SegmentationClass", np.where(values_HW == 1, 12, np.where(values_HW == 2, 8, 0)))
    (sample,), findings = read(folder)
    assert findings == []
    assert sorted(i.label for i in sample.instances) == ["cat", "dog"]


def test_class_images_alone_give_one_region_a_class_and_beside_boxes_they_are_named_as_unread(tmp_path: Path) -> None:
    values_HW = np.zeros(SIZE_HW)
    values_HW[3:11, 2:12], values_HW[0:2] = 12, 200
    folder = devkit(tmp_path / "alone", a=xml())
    mask_image(folder, "SegmentationClass", values_HW)
    (sample,), findings = read(folder)
    assert [(i.label, i.mask.area) for i in sample.instances if i.mask] == [("dog", 80)]
    assert [(f.code, f.annotation) for f in findings] == [("category-unknown", "200")]
    folder = devkit(tmp_path / "beside", a=xml(DOG))
    mask_image(folder, "SegmentationClass", values_HW)
    assert [f.code for f in read(folder)[1]] == ["masks-unread"]


def test_colours_of_a_labelmap_name_the_classes(tmp_path: Path) -> None:
    folder = devkit(tmp_path, a=xml())
    (folder / "SegmentationClass").mkdir()
    colours = np.zeros((*SIZE_HW, 3), np.uint8)
    colours[3:11, 2:12] = (250, 50, 83)
    Image.fromarray(colours).save(folder / "SegmentationClass" / "a.png")
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:250,50,83::\n")
    (sample,), findings = read(folder)
    assert findings == []
    assert [(i.label, i.mask.area) for i in sample.instances if i.mask] == [("crack", 80)]


def test_lists_say_which_images_count_and_in_which_split(tmp_path: Path) -> None:
    folder = devkit(tmp_path, a=xml(DOG), b=xml(DOG, filename="b.jpg"), c=xml(DOG, filename="c.jpg"))
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b  1\na\n")
    (lists / "dog_train.txt").write_text("c 1\n")
    samples, findings = read(folder)
    assert {s.image_id: s.split for s in samples} == {"JPEGImages/a.jpg": "train", "JPEGImages/b.jpg": "val"}
    assert sorted(f.code for f in findings) == ["image-in-two-splits", "image-unlisted"]


@pytest.mark.parametrize(
    ("difficult", "crowds", "codes"),
    [("keep", [False], []), ("ignore", [True], []), ("drop", [], ["object-difficult"])],
)
def test_difficult_objects_are_kept_ignored_or_dropped(
    tmp_path: Path, difficult: str, crowds: list[bool], codes: list[str]
) -> None:
    (sample,), findings = read(devkit(tmp_path, a=xml(CAT)), difficult=difficult)
    assert [i.is_crowd for i in sample.instances] == crowds
    assert [f.code for f in findings] == codes


def test_xml_beside_the_images_and_polygons_are_read(tmp_path: Path) -> None:
    polygon = "<polygon><x1>3</x1><y1>4</y1><x2>12</x2><y2>4</y2><x3>12</x3><y3>11</y3><x4>3</x4><y4>11</y4></polygon>"
    (tmp_path / "train").mkdir()
    Image.fromarray(np.zeros((*SIZE_HW, 3), np.uint8)).save(tmp_path / "train" / "A.JPG")
    (tmp_path / "train" / "A.xml").write_text(xml(("dog", DOG[1], polygon), filename="C:\\data\\renamed.jpg"))
    (sample,), findings = read(tmp_path, first_pixel=0)
    assert findings == []
    assert sample.split == "train"
    assert [i.mask.area for i in sample.instances if i.mask] == [63]


@pytest.mark.parametrize(
    ("text", "code", "severity"),
    [
        ("<annotation>", "row-malformed", Severity.ERROR),
        (
            '<!DOCTYPE a [<!ENTITY x "xxxx">]><annotation><filename>&x;</filename></annotation>',
            "row-malformed",
            Severity.ERROR,
        ),
        (xml(("dog", (12, 4, 3, 11), "")), "box-malformed", Severity.ERROR),
        (xml(("dog", ("nan", 4, 12, 11), "")), "number-invalid", Severity.ERROR),
        (xml(("dog", ("", 4, 12, 11), "")), "number-invalid", Severity.ERROR),
        (xml(("dog", (100, 100, 120, 110), "")), "box-empty", Severity.SKIPPED),
        (xml(("dog", (3, 4, 1e9, 11), "")), "annotation-repaired", Severity.REPAIRED),
        (xml(("", DOG[1], "")), "category-unknown", Severity.ERROR),
        (xml(DOG, DOG), "annotation-duplicate", Severity.SKIPPED),
        (xml(DOG, size="<size><width>0</width><height>0</height></size>"), "image-size-invalid", Severity.REPAIRED),
        (xml(DOG, size="<size/>"), "image-size-invalid", Severity.REPAIRED),
        ("<recipe/>", "file-unread", Severity.WARNING),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, code: str, severity: Severity) -> None:
    _, findings = read(devkit(tmp_path, a=text, b=xml(DOG, filename="b.jpg")))
    named = [f for f in findings if f.code != "label-file-missing"]
    assert [(f.code, f.severity) for f in named] == [(code, severity)]
    assert "a" in (named[0].file + named[0].image)


def test_an_annotation_without_an_image_and_an_image_without_one_are_named(tmp_path: Path) -> None:
    folder = devkit(tmp_path, a=xml(DOG), b=xml(DOG, filename="b.jpg"))
    (folder / "JPEGImages" / "b.jpg").unlink()
    (folder / "Annotations" / "a.xml").unlink()
    samples, findings = read(folder)
    assert [(s.image_id, s.instances) for s in samples] == [("JPEGImages/a.jpg", ())]
    assert [f.code for f in findings] == ["image-missing", "label-file-missing"]


@pytest.mark.parametrize(
    ("content", "code"), [("lossy", "mask-lossy"), ("small", "mask-unreadable"), ("no image", "mask-unreadable")]
)
def test_a_mask_image_that_cannot_be_trusted_is_an_error(tmp_path: Path, content: str, code: str) -> None:
    folder = devkit(tmp_path, a=xml(DOG))
    (folder / "SegmentationObject").mkdir()
    file = folder / "SegmentationObject" / "a.png"
    if content == "no image":
        file.write_bytes(b"x")
    else:
        size_hw = (5, 5) if content == "small" else SIZE_HW
        Image.fromarray(np.ones(size_hw, np.uint8)).save(file, "JPEG" if content == "lossy" else "PNG")
    _, findings = read(folder)
    assert [(f.code, f.severity) for f in findings] == [(code, Severity.ERROR)]
