"""What annotation tools are given, held to their documented formats, and the page of the queue."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from segdist.core import masks
from segdist.core.records import Evidence, Instance, Sample, Verdict
from segdist.labelling.review import coco, cvat, label_studio
from segdist.labelling.review.queue import Doubt, Task, by_image, queue
from segdist.labelling.review.returned import drawn_mask
from segdist.pages import doubts
from segdist.reading.drawn.brush import decode_brush

SIZE_HW = (6, 8)
CLASSES = ("crack", "seam <1mm")
DRAWN = np.zeros(SIZE_HW, np.bool_)
DRAWN[1:4, 2:6] = True
DRAWN[2, 3] = False
PROPOSED = masks.encode(DRAWN)
BOX = (2.0, 1.0, 6.0, 4.0)


def _said(**evidence: object) -> Evidence:
    return Evidence(Verdict.REVIEW, proposed=PROPOSED, **evidence)  # type: ignore[arg-type]


WITH_MASK = Doubt(1, "i/1", 0, Instance("seam <1mm", None, BOX, 0.25, evidence=_said()), 0.5)
WITHOUT = Doubt(
    2, "i/1", 1, Instance("crack", None, (0.5, 0.0, 7.25, 6.0), 0.75, evidence=Evidence(Verdict.REJECT)), 0.1
)
TASKS = [
    Task("1.png", Sample("i/0", "", SIZE_HW, (), source="label-x"), (replace(WITHOUT, number=3),)),
    Task("2.png", Sample("i/1", "", SIZE_HW, (), source="label-x"), (WITH_MASK, WITHOUT)),
]


def test_pycocotools_reads_the_queue_as_coco(tmp_path: Path) -> None:
    coco.write(tmp_path, TASKS, CLASSES)
    read = COCO(str(tmp_path / "coco.json"))
    assert [read.imgs[k] for k in (1, 2)] == [
        {"id": 1, "file_name": "1.png", "height": 6, "width": 8},
        {"id": 2, "file_name": "2.png", "height": 6, "width": 8},
    ]
    assert {k: (c["name"], c["supercategory"]) for k, c in read.cats.items()} == {1: ("crack", ""), 2: (CLASSES[1], "")}
    assert sorted(read.anns) == [1, 2, 3]
    first, second = read.anns[1], read.anns[2]
    assert (first["image_id"], first["category_id"], first["attributes"]) == (2, 2, {"object": 1})
    assert (second["image_id"], second["category_id"], second["attributes"]) == (2, 1, {"object": 2})
    assert first["bbox"] == [2, 1, 4, 3]
    assert first["score"] == 0.25
    np.testing.assert_array_equal(read.annToMask(first), DRAWN)
    assert "segmentation" not in second or not second["segmentation"]


def test_the_queue_is_the_xml_that_cvat_documents(tmp_path: Path) -> None:
    """docs.cvat.ai/docs/dataset_management/formats/format-cvat: "CVAT for images 1.1"; runs row by row, unset first."""
    cvat.write(tmp_path, TASKS, CLASSES)
    text = (tmp_path / "cvat.xml").read_text(encoding="utf-8")
    assert text.startswith("<?xml version='1.0' encoding='utf-8'?>")
    label = (
        "<label><name>{}</name><attributes><attribute><name>object</name><mutable>False</mutable>"
        "<input_type>text</input_type><default_value></default_value></attribute></attributes></label>"
    )
    common = 'source="auto" occluded="0" z_order="0"'
    sides = 'xtl="0.50" ytl="0.00" xbr="7.25" ybr="6.00"'
    box = f'<box label="crack" {common} {sides}><attribute name="object">{{}}</attribute></box>'
    expected = (
        f"<annotations><version>1.1</version><meta><task><labels>{label.format('crack')}"
        f"{label.format('seam &lt;1mm')}</labels></task></meta>"
        f'<image id="0" name="1.png" width="8" height="6">{box.format(3)}</image>'
        '<image id="1" name="2.png" width="8" height="6">'
        f'<mask label="seam &lt;1mm" {common} rle="0, 5, 1, 6" left="2" top="1" width="4" height="3">'
        f'<attribute name="object">1</attribute></mask>{box.format(2)}</image></annotations>'
    )
    assert ET.canonicalize(text) == ET.canonicalize(expected)


def test_the_queue_is_the_tasks_and_the_interface_that_label_studio_documents(tmp_path: Path) -> None:
    """labelstud.io/guide/predictions: regions of type `brushlabels` in the control `mask` over the object `image`."""
    label_studio.write(tmp_path, TASKS, CLASSES)
    interface = ET.fromstring((tmp_path / "label_studio_config.xml").read_text())
    assert [(e.tag, e.attrib) for e in interface.iter()] == [
        ("View", {}),
        ("Image", {"name": "image", "value": "$image", "zoom": "true"}),
        ("BrushLabels", {"name": "mask", "toName": "image"}),
        *(("Label", {"value": name}) for name in CLASSES),
    ]
    assert not "".join(interface.itertext()).strip()
    first, second = json.loads((tmp_path / "label_studio.json").read_text())
    assert first == {
        "data": {"image": "/data/local-files/?d=images/1.png", "file_name": "1.png"},
        "predictions": [{"model_version": "label-x", "score": 0.75, "result": []}],
    }
    (prediction,) = second["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("label-x", 0.5)
    (region,) = prediction["result"]
    value = region.pop("value")
    assert region == {
        "id": "object-1",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 8,
        "original_height": 6,
        "image_rotation": 0,
        "score": 0.25,
    }
    assert (value["format"], value["brushlabels"]) == ("rle", ["seam <1mm"])
    assert decode_brush(value["rle"], SIZE_HW) == PROPOSED


def test_an_empty_proposal_is_shown_as_the_box(tmp_path: Path) -> None:
    nothing = Evidence(Verdict.REVIEW, proposed=masks.empty(SIZE_HW))
    doubt = replace(WITH_MASK, instance=replace(WITH_MASK.instance, evidence=nothing))
    tasks = [replace(TASKS[1], doubts=(doubt,))]
    cvat.write(tmp_path, tasks, CLASSES)
    label_studio.write(tmp_path, tasks, CLASSES)
    (box,) = ET.parse(tmp_path / "cvat.xml").getroot().iter("box")
    assert [box.attrib[side] for side in ("xtl", "ytl", "xbr", "ybr")] == ["2.00", "1.00", "6.00", "4.00"]
    assert json.loads((tmp_path / "label_studio.json").read_text())[0]["predictions"][0]["result"] == []


def _label(label: str, mask: masks.Mask | None, score: float, box: tuple[float, ...] = BOX) -> Instance:
    rle = None if mask is None else masks.encode(mask)
    x1, y1, x2, y2 = box
    return Instance(label, None, (x1, y1, x2, y2), score, evidence=Evidence(Verdict.REVIEW, proposed=rle))


def test_the_gain_is_the_share_of_a_classes_pixels_that_is_expected_to_be_wrong() -> None:
    """(1 - s) a / A, by hand; a box counts where there is no mask, a score outside 0..1 as the nearest in it."""
    wide = np.zeros((10, 10), np.bool_)
    wide[:4] = True
    drawn = Instance("rare", masks.encode(wide), (0, 0, 10, 4))
    samples = [
        Sample("j", "", (10, 10), (_label("often", wide, 0.5), _label("often", wide, 1.5), drawn)),
        Sample("i", "", (10, 10), (_label("often", wide, 0.5), _label("rare", None, -0.5, (0, 0, 2, 5)))),
    ]
    found = queue(samples, verdicts=[Verdict.REVIEW], most=9)
    gains = [("i", 1, 10 / 50), ("i", 0, 20 / 120), ("j", 0, 20 / 120), ("j", 1, 0)]
    assert [(d.image_id, d.index) for d in found] == [(image, index) for image, index, _ in gains]
    assert [d.gain for d in found] == pytest.approx([gain for *_, gain in gains])
    assert [d.number for d in found] == [1, 2, 3, 4]
    assert found[0].instance is samples[1].instances[1]
    assert {name: [d.index for d in of] for name, of in by_image(found).items()} == {"i": [1, 0], "j": [0, 1]}
    assert queue(samples, verdicts=[Verdict.REJECT], most=9) == []


def test_what_people_drew_has_no_doubt_and_what_was_accepted_is_reported_so() -> None:
    assert Doubt(1, "i", 0, Instance("a", PROPOSED, BOX), 0.0).verdict is Verdict.ACCEPT
    assert WITH_MASK.verdict is Verdict.REVIEW
    assert WITH_MASK.mask == PROPOSED
    assert WITHOUT.mask is None


def test_a_figure_shows_the_surroundings_plain_and_with_mask_and_box_and_says_what_is_known() -> None:
    image = np.full((80, 120, 3), (40, 90, 160), np.uint8)
    mask = np.zeros((80, 120), np.bool_)
    mask[30:50, 40:80] = True
    said = Evidence(Verdict.REVIEW, proposed=masks.encode(mask), agreement=0.625, predicted_iou=0.875)
    doubt = Doubt(7, "i/1", 0, Instance("crack", None, (40, 20, 80, 60), 0.5, evidence=said), 0.0125)
    figure = doubts.figure(doubt, image, CLASSES)
    assert figure.title == "7. crack"
    assert figure.text == "review, score 0.50, agreement 0.62, predicted IoU 0.88, gain 0.013; i/1"
    content = base64.b64decode(figure.src.partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(content)))
    assert shown.shape == (60, 60 + 4 + 60, 3), "a quarter of each side more"
    plain, gap, drawn = shown[:, :58].astype(int), shown[:, 61:63].astype(int), shown[:, 64:].astype(int)
    assert np.abs(plain - (40, 90, 160)).max() < 12
    assert gap.min() > 200
    changed = np.abs(drawn - (40, 90, 160)).max(axis=2) > 30
    assert changed[25:35, 15:45].mean() > 0.9, "the mask"
    assert changed[10, 12:48].mean() > 0.9, "the box"
    assert not changed[:6].any()

    bare = replace(doubt, instance=replace(doubt.instance, evidence=Evidence(Verdict.REJECT)))
    assert doubts.figure(bare, image, CLASSES).text == "reject, score 0.50, gain 0.013; i/1"


@pytest.mark.parametrize(("total", "said"), [(9, "1 of 9 labels"), (1, "1 label")])
def test_the_page_says_how_many_of_all_it_shows(tmp_path: Path, total: int, said: str) -> None:
    image = np.zeros((*SIZE_HW, 3), np.uint8)
    figure = doubts.figure(WITH_MASK, image, CLASSES)
    doubts.write(str(tmp_path / "index.html"), [figure], CLASSES, total=total, title="walls & roofs")
    page = (tmp_path / "index.html").read_text()
    assert "Review: walls &amp; roofs" in page
    assert re.search(rf">\s*{said}\s*<", page)
    for text in ("1. seam &lt;1mm", figure.src, "Left the image, right the proposed mask", "the most time", "crack"):
        assert text in page


def test_a_point_far_outside_is_no_strip_but_an_error() -> None:
    near = drawn_mask([[2, 2, 12, 2, 12, 5, 2, 5]], size_hw=(10, 10))
    assert near.area == 24
    with pytest.raises(ValueError, match=r"must lie in the image of 10 x 10 pixels, but is at 1e\+30"):
        drawn_mask([[2, 2, 1e30, 2, 1e30, 5, 2, 5]], size_hw=(10, 10))
