"""Review: the queue's order, every tool's files there and back to the pixel, and what people's changes mean."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segdist.core import masks
from segdist.core.errors import DataError
from segdist.core.records import Evidence, Instance, Sample, Verdict
from segdist.labelling.corrections import Corrections
from segdist.labelling.review import back, coco, cvat, label_studio
from segdist.labelling.review.queue import Doubt, Task, by_image, queue
from segdist.labelling.review.returned import Drawn, Returned, UnreadShape, object_number
from segdist.reading.drawn.brush import decode_brush, encode_brush

SIZE_HW = (50, 70)


def _mask(seed: int) -> np.ndarray:
    """A blob with a hole and a thin diagonal: what polygons would lose."""
    drawn = np.zeros(SIZE_HW, np.uint8)
    cv2.circle(drawn, (15 + 5 * seed, 20), 10, 1, -1)
    cv2.circle(drawn, (15 + 5 * seed, 20), 3, 0, -1)
    cv2.line(drawn, (2 + 9 * seed, 48), (20 + 14 * seed, 30), 1, 1)
    return drawn > 0


def _instance(seed: int, *, label: str = "crack", score: float = 0.5, verdict: Verdict = Verdict.REVIEW) -> Instance:
    rle = masks.encode(_mask(seed))
    return Instance(label, None, rle.box_xyxy, score, evidence=Evidence(verdict, proposed=rle))


SAMPLES = [
    Sample("i/1", "", SIZE_HW, (_instance(0), _instance(1, label="seam", score=0.9))),
    Sample("i/2", "", SIZE_HW, (_instance(2, score=0.1), _instance(3, verdict=Verdict.REJECT))),
]


ASKED = [
    back.Asked(n, one.image_id, 0, f"{n}.png", SIZE_HW, one.instances[0]) for n, one in enumerate(SAMPLES, start=1)
]


def came(*drawn: Drawn) -> Returned:
    """A file that holds these masks, and nothing else."""
    returned = Returned(Path("came.json"), {})
    returned.drawn, returned.images = list(drawn), {one.file_name for one in drawn}
    return returned


def _tasks(doubts: list[Doubt]) -> list[Task]:
    samples = {s.image_id: s for s in SAMPLES}
    return [
        Task(f"{n}.png", samples[image_id], of) for n, (image_id, of) in enumerate(by_image(doubts).items(), start=1)
    ]


@pytest.fixture
def doubts() -> list[Doubt]:
    return queue(SAMPLES, verdicts=[Verdict.REVIEW, Verdict.REJECT], most=10)


def test_the_queue_begins_where_correction_promises_most() -> None:
    found = queue(SAMPLES, verdicts=[Verdict.REVIEW], most=10)
    assert found[0].image_id == "i/2"
    areas = [masks.encode(_mask(k)).area for k in (0, 2, 3)]
    assert found[0].gain == pytest.approx(0.9 * areas[1] / sum(areas))
    assert [d.gain for d in found] == sorted((d.gain for d in found), reverse=True)
    assert [d.number for d in found] == [1, 2, 3]
    assert len(queue(SAMPLES, verdicts=[Verdict.REVIEW], most=2)) == 2
    at = (found[1].image_id, found[1].instance.label)
    assert {(d.image_id, d.instance.label) for d in queue(SAMPLES, verdicts=[*Verdict], most=9, only={at})} == {at}


def _write_all(folder: Path, doubts: list[Doubt]) -> dict[str, Path]:
    tasks = _tasks(doubts)
    for tool in (coco, cvat, label_studio):
        tool.write(folder, tasks, ("crack", "seam"))
    back.write_queue(folder, tasks, "hash")
    exported = json.loads((folder / label_studio.FILE).read_text())
    for task in exported:  # a person opened the prediction and pressed "submit"
        task["annotations"] = [{"result": task["predictions"][0]["result"], "created_at": "2026-01-01"}]
    (folder / "submitted.json").write_text(json.dumps(exported))
    return {"coco": folder / coco.FILE, "cvat": folder / cvat.FILE, "label_studio": folder / "submitted.json"}


@pytest.mark.parametrize("tool", ["coco", "cvat", "label_studio"])
def test_masks_come_back_from_every_tool_to_the_pixel(tmp_path: Path, doubts: list[Doubt], tool: str) -> None:
    file = _write_all(tmp_path, doubts)[tool]
    asked = back.read_queue(tmp_path / back.FILE, "hash", SAMPLES)
    outcome = back.decide(asked, back.read_masks(file, asked), removed_means_nothing=False, only_changed=False)
    assert (outcome.confirmed, outcome.corrected, outcome.undecided) == (4, 0, 0)
    assert outcome.skipped_shapes == []
    for doubt in doubts:
        assert outcome.corrections.of_image[doubt.image_id][doubt.index] == doubt.mask


def test_brush_regions_are_read_as_their_format_says() -> None:
    """A stream written by hand: a repeated run of 3 values, then 5 literal ones, over 2 pixels of 4 channels."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{s - 1:04b}" for s in (3, 4, 8, 16))
    bits += "1" + "00" + f"{2:03b}" + f"{0:08b}"
    bits += "0" + "01" + f"{4:04b}" + "".join(f"{v:08b}" for v in (0, 9, 9, 9, 255))
    packed = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert masks.decode(decode_brush(packed, (1, 2))).tolist() == [[False, True]]
    with pytest.raises(ValueError, match="must have 4 x 2 x 2 values"):
        decode_brush(packed, (2, 2))


def test_run_lengths_of_cvat_go_row_by_row_and_begin_with_unset_pixels() -> None:
    assert cvat.row_runs(np.array([[0, 1, 1], [1, 0, 0]], bool)) == [1, 3, 2]
    assert cvat.row_runs(np.array([[1, 1], [0, 1]], bool)) == [0, 2, 1, 1]


def test_polygons_that_people_draw_are_taken_too(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        '<annotations><image id="0" name="folder/1.png" width="70" height="50">'
        '<polygon label="crack" points="10,10;30,10;30,30;10,30"/></image></annotations>'
    )
    (drawn,) = back.read_masks(tmp_path / "a.xml", ASKED).drawn
    assert drawn.file_name == "1.png"
    assert drawn.mask == masks.from_box((10, 10, 30, 30), size_hw=SIZE_HW)


def test_without_numbers_masks_are_given_to_the_box_of_their_class_that_fits_best(
    tmp_path: Path, doubts: list[Doubt]
) -> None:
    _write_all(tmp_path, doubts)
    asked = back.read_queue(tmp_path / back.FILE, "hash", SAMPLES)
    drawn = [Drawn(d.file_name, d.instance.label, d.instance.mask) for d in asked if d.instance.mask]
    outcome = back.decide(asked, came(*drawn[::-1]), removed_means_nothing=False, only_changed=False)
    assert outcome.confirmed == 4
    shouted = [replace(one, label=f" {one.label.upper()}") for one in drawn]  # as another tool may spell them
    assert back.decide(asked, came(*shouted), removed_means_nothing=False, only_changed=False).confirmed == 4
    far = Drawn("1.png", "crack", masks.from_box((66, 0, 70, 3), size_hw=SIZE_HW))
    outcome = back.decide(asked, came(*drawn, far), removed_means_nothing=False, only_changed=False)
    assert outcome.skipped_shapes == ["1.png: 1 x mask of `crack` that fits no object of the queue"]


def test_only_what_a_person_decided_is_taken_over(tmp_path: Path, doubts: list[Doubt]) -> None:
    _write_all(tmp_path, doubts)
    asked = back.read_queue(tmp_path / back.FILE, "hash", SAMPLES)
    changed, same, *_ = asked
    other = masks.from_box(changed.instance.box_xyxy, size_hw=SIZE_HW)
    drawn = [
        Drawn(changed.file_name, "", other, changed.number),
        Drawn(same.file_name, "", same.instance.mask or other, same.number),
    ]
    careful = back.decide(asked, came(*drawn), removed_means_nothing=False, only_changed=True)
    assert (careful.corrected, careful.confirmed, careful.unchanged, careful.undecided) == (1, 0, 1, 2)
    assert careful.corrections.of_image == {changed.image_id: {changed.index: other}}
    thorough = back.decide(asked, came(*drawn), removed_means_nothing=True, only_changed=False)
    assert (thorough.corrected, thorough.confirmed) == (1, 1)
    alone = back.decide(asked, came(*drawn[:1]), removed_means_nothing=True, only_changed=False)
    beside = [one for one in asked[1:] if one.file_name == changed.file_name]
    assert beside
    assert (alone.nothing, alone.undecided) == (len(beside), 3 - len(beside))
    assert all(alone.corrections.of_image[one.image_id][one.index] is None for one in beside)


def test_corrections_win_count_as_human_and_outlive_the_file(tmp_path: Path) -> None:
    drawn = masks.from_box((1, 1, 9, 9), size_hw=SIZE_HW)
    Corrections({"i/1": {0: drawn, 1: None}}).save(str(tmp_path / "c.json"))
    kept = Corrections.load(str(tmp_path / "c.json"))
    corrected, removed = kept.apply(SAMPLES[0]).instances
    assert (corrected.mask, corrected.score, corrected.evidence) == (drawn, 1.0, None)
    assert removed.mask is not None
    assert removed.mask.area == 0
    assert kept.apply(SAMPLES[1]) is SAMPLES[1]
    newer = kept.merged(Corrections({"i/1": {0: None}}))
    assert newer.of_image["i/1"] == {0: None, 1: None}
    assert newer.fingerprint != kept.fingerprint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{]", "a.json: it must be JSON"),
        ("a.json", "[" * 100_000, "at most 100 deep"),
        ("a.json", '{"images": []}', "a.json: a COCO file lacks 'categories'"),
        ("a.json", '{"images": 3, "categories": [], "annotations": []}', "a COCO file: 'int' object is not iterable"),
        ("a.json", '[{"annotations": [{"result": [{"type": "b"}]}], "data": {"image": "1.png"}}]', "lacks 'value'"),
        ("a.json", '[{"annotations": [{"result": 3}], "data": {"image": "1.png"}}]', "task 1: 'int' object"),
        ("a.xml", "<annotations><image", "CVAT for images 1.1`: it is no XML"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "EntitiesForbidden"),
        ("a.xml", "<a>" + "<b/>" * 2_000_000, "at most 2,000,000 tags"),
    ],
    ids=lambda value: value[:30],
)
def test_files_that_are_not_what_they_seem_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        back.read_masks(tmp_path / name, ASKED)


def test_a_queue_of_other_data_is_refused(tmp_path: Path, doubts: list[Doubt]) -> None:
    back.write_queue(tmp_path, _tasks(doubts), "hash")
    with pytest.raises(DataError, match="is about the data set hash"):
        back.read_queue(tmp_path / back.FILE, "other", SAMPLES)


BRUSH = f"{SIZE_HW[0] * SIZE_HW[1] * 4:032b}{7:05b}" + "".join(f"{s - 1:04b}" for s in (3, 4, 8, 16))


def _packed(bits: str) -> list[int]:
    return [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]


def _coco(segmentation: Any, **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": 50, "width": 70, **image}],
        "categories": [{"id": 1, "name": "crack"}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "segmentation": segmentation}],
    }


def _cvat(shape: str, size: str = 'width="70" height="50"') -> str:
    return f'<annotations><image name="1.png" {size}>{shape}</image></annotations>'


def _cvat_mask(rle: str, left: Any = 0, top: Any = 0, width: Any = 3, height: Any = 1) -> str:
    return _cvat(f'<mask label="crack" rle="{rle}" left="{left}" top="{top}" width="{width}" height="{height}"/>')


def _studio(kind: str, value: dict[str, Any], height: Any = 50, width: Any = 70) -> list[dict[str, Any]]:
    region = {"id": "r7", "type": kind, "original_height": height, "original_width": width}
    value = {kind: ["crack"], **value}
    return [{"data": {"image": "/upload/1.png"}, "annotations": [{"result": [{**region, "value": value}]}]}]


def _polygon(*points: Any) -> list[dict[str, Any]]:
    return _studio("polygonlabels", {"points": list(points)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_coco([[1, 1, math.nan, 1, 9, 9]]), "annotation 7: .*finite"),
        (_coco([[1, 1, math.inf, 1, 9, 9]]), "annotation 7: .*finite"),
        (_coco([[1, 1, 9, 1, 9, 9, 4]]), "annotation 7: .*has 7 numbers"),
        (_coco([[1, 1, 9, 1]]), "annotation 7: .*has 4 numbers"),
        (_coco([[1, 1, "nine", 1, 9, 9]]), "annotation 7: .*list of numbers"),
        (_coco("1 1 9 1 9 9"), "annotation 7: .*lists of numbers"),
        (_coco({"size": [10, 10], "counts": [100]}), r"annotation 7: .*image's \(50, 70\), but is \(10, 10\)"),
        (_coco({"size": [50, 70], "counts": [100]}), "annotation 7: .*must sum to h x w = 3500"),
        (_coco({"size": [50, 70], "counts": "0" * 9_000_000}), "annotation 7: .*at most 8,388,608 run lengths"),
        (_coco({"size": [50, 70]}), "annotation 7: .*has no 'counts'"),
        (
            _coco({"size": [100_000, 100_000], "counts": [10**10]}, height=100_000, width=100_000),
            "image 1: .*must be the queue's 50",
        ),
        (_coco([[1, 1, 9, 1, 9, 9]], width=10), "image 1: .*width must be the queue's 70, but is 10"),
        (_coco([[1, 1, 9, 1, 9, 9]], height="tall"), "image 1: .*height must be the queue's 50, but is 'tall'"),
        ({**_coco([]), "annotations": [{"id": 7, "image_id": 9, "category_id": 1}]}, "annotation 7: there is no image"),
        ({**_coco([]), "annotations": [5]}, "annotation 1: 'int' object"),
        (_cvat("", 'width="30000" height="30000"'), "image 1.png: .*height must be the queue's 50, but is '30000'"),
        (_cvat_mask("3", left=69), "mask 1 of 1.png: .*must lie in its image"),
        (_cvat_mask("3", left=-1), "mask 1 of 1.png: .*must lie in its image"),
        (_cvat_mask("12", width=-3, height=-4), "mask 1 of 1.png: .*must lie in its image"),
        (_cvat_mask("3", width="1e300"), "mask 1 of 1.png: .*must lie in its image"),
        (_cvat_mask("3", width="inf"), "mask 1 of 1.png: cannot convert float infinity"),
        (_cvat_mask("3", width="nan"), "mask 1 of 1.png: cannot convert float NaN"),
        (_cvat_mask("5, -2"), "mask 1 of 1.png: .*sum to its pixels"),
        (_cvat_mask("1e99"), "mask 1 of 1.png: .*sum to its pixels"),
        (_cvat_mask("nan 3"), "mask 1 of 1.png: .*sum to its pixels"),
        (_cvat_mask("three"), "mask 1 of 1.png: could not convert"),
        (_cvat('<mask label="crack" rle="3"/>'), "mask 1 of 1.png lacks 'left'"),
        (_cvat('<polygon label="crack" points="1,1;nan,1;9,9"/>'), "polygon 1 of 1.png: .*finite"),
        (_cvat('<polygon label="crack" points="1,1;9,1"/>'), "polygon 1 of 1.png: .*has 4 numbers"),
        (_cvat('<polygon label="crack" points="1,1;9"/>'), "polygon 1 of 1.png: .*has 3 numbers"),
        (
            _studio("brushlabels", {"rle": _packed(BRUSH)}, 30_000, 30_000),
            "region r7 of 1.png: .*must be the queue's 50",
        ),
        (_studio("brushlabels", {"rle": _packed(BRUSH)}), "region r7 of 1.png: .*end in the middle"),
        (_studio("brushlabels", {"rle": [255] * 9}), "region r7 of 1.png: .*has 4294967295"),
        (_studio("brushlabels", {"rle": [256]}), "region r7 of 1.png: "),
        (_studio("brushlabels", {"rle": "x"}), "region r7 of 1.png: "),
        (_studio("brushlabels", {"rle": [0] * 2_100_000}), "region r7 of 1.png: .*at most 2,097,152 bytes"),
        (_studio("brushlabels", {}), "region r7 of 1.png lacks 'rle'"),
        (_polygon([1, 1], [math.nan, 1], [9, 9]), "region r7 of 1.png: .*finite"),
        (_polygon([1, 1], [9, 1]), "region r7 of 1.png: .*has 4 numbers"),
        (_polygon([1, 1], [9], [9, 9]), "region r7 of 1.png: "),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_what_no_object_can_be_is_refused_with_the_file_and_the_object(tmp_path: Path, content: Any, said: str) -> None:
    file = tmp_path / ("came.xml" if isinstance(content, str) else "came.json")
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=f"{file.name}: {said}"):
        back.read_masks(file, ASKED)


def test_a_coordinate_far_outside_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(_coco([[-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8]])))
    with pytest.raises(DataError, match=r"a\.json: annotation 7: a point must lie in the image of 70 x 50 pixels"):
        back.read_masks(tmp_path / "a.json", ASKED)


_DECIDED = {"removed_means_nothing": True, "only_changed": False}


@pytest.mark.parametrize("tool", ["coco", "cvat", "label_studio"])
def test_an_image_that_comes_back_empty_has_none_of_its_objects(tmp_path: Path, doubts: list[Doubt], tool: str) -> None:
    file = _write_all(tmp_path, doubts)[tool]
    asked = back.read_queue(tmp_path / back.FILE, "hash", SAMPLES)
    emptied = [one for one in asked if one.file_name == "1.png"]
    assert emptied
    if tool == "cvat":
        file.write_text(re.sub('(<image [^>]*"1.png"[^>]*>).*?(</image>)', r"\1\2", file.read_text()))
    else:
        content = json.loads(file.read_text())
        if tool == "coco":
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]
        else:
            content[0]["annotations"][0]["result"] = []
        file.write_text(json.dumps(content))
    outcome = back.decide(asked, back.read_masks(file, asked), **_DECIDED)
    assert (outcome.nothing, outcome.confirmed) == (len(emptied), 4 - len(emptied))
    assert outcome.corrections.of_image[emptied[0].image_id] == {one.index: None for one in emptied}
    careful = back.decide(asked, back.read_masks(file, asked), removed_means_nothing=False, only_changed=False)
    assert (careful.nothing, careful.undecided) == (0, len(emptied))


@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        (_cvat('<ellipse label="crack" cx="5" cy="5" rx="2" ry="2"/>' * 2), ["2 x ellipse"]),
        (_cvat('<box label="crack"/><points label="seam"/>'), ["1 x rectangle", "1 x points"]),
        ("<annotations><version/><meta/><track/><track/></annotations>", ["2 x element `track`"]),
        (_coco([]), ["1 x box without a mask"]),
        (_studio("ellipselabels", {"x": 1}), ["1 x region of type ellipselabels"]),
        (_studio("rectanglelabels", {"x": 1}), ["1 x region of type rectanglelabels"]),
        (_studio("brush", {"rle": []}), ["1 x region of type brush"]),
        ([{"id": 1, "image": "1.png", "mask": []}], ["1 x entry that is no task of Label Studio's JSON export"]),
        (
            [{"image_id": 1, "category_id": 1, "score": 1}, 7],
            ["2 x entry that is no task of Label Studio's JSON export"],
        ),
        ([{"data": {"image": "1.png"}, "predictions": []}], ["1 x task that nobody has submitted"]),
        (_coco([], file_name="9.png"), ["1 x image that is not in the queue"]),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_what_is_no_mask_is_counted_and_its_object_still_there(tmp_path: Path, content: Any, kinds: list[str]) -> None:
    file = tmp_path / ("came.xml" if isinstance(content, str) else "came.json")
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    outcome = back.decide(ASKED, back.read_masks(file, ASKED), **_DECIDED)
    assert outcome.skipped_shapes == kinds
    assert (outcome.nothing, outcome.corrections.of_image) == (0, {})


SQUARE = masks.from_box((7, 5, 21, 15), size_hw=SIZE_HW)
CORNERS_XY = ((7, 5), (21, 5), (21, 15), (7, 15))
OBJECT = '<attribute name="other">8</attribute><attribute name="object"> 3 </attribute>'
_XY = ";".join(f"{x},{y}" for x, y in CORNERS_XY)


def _read(tmp_path: Path, content: Any) -> Returned:
    file = tmp_path / ("came.xml" if isinstance(content, str) else "came.json")
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return back.read_masks(file, ASKED)


def _studio_task(*regions: Any, **data: str) -> dict[str, Any]:
    shared = {"original_height": 50, "original_width": 70}
    results = [{**shared, **r} if isinstance(r, dict) else r for r in regions]
    return {"data": data or {"image": "1.png"}, "annotations": [{"result": results}]}


def _studio_region(kind: str, **value: Any) -> dict[str, Any]:
    return {"id": "object-3", "type": kind, "value": value}


PERCENT = [[100 * x / 70, 100 * y / 50] for x, y in CORNERS_XY]
LABELLED = {"polygonlabels": ["seam"], "points": PERCENT}


@pytest.mark.parametrize(
    "content",
    [
        _cvat(f'<mask label="seam" rle="0, 140" left="7" top="5" width="14" height="10">{OBJECT}</mask>'),
        _cvat(f'<polygon label="seam" points="{_XY}">{OBJECT}</polygon>'),
        [_studio_task(_studio_region("polygonlabels", **LABELLED))],
        [_studio_task(_studio_region("brushlabels", brushlabels=["seam"], rle=encode_brush(SQUARE)))],
    ],
    ids=["cvat mask", "cvat polygon", "polygon", "brush"],
)
def test_a_shape_keeps_its_image_class_number_and_pixels(tmp_path: Path, content: Any) -> None:
    assert _read(tmp_path, content).drawn == [Drawn("1.png", "seam", SQUARE, 3)]


@pytest.mark.parametrize(
    ("content", "unread"),
    [
        (_cvat(f'<box label="seam">{OBJECT}</box>'), UnreadShape("rectangle", "1.png", "seam", 3)),
        (_cvat("<box/>"), UnreadShape("rectangle", "1.png", "", 0)),
        (
            [_studio_task(_studio_region("ellipselabels", ellipselabels=["seam"], x=1))],
            UnreadShape("region of type ellipselabels", "1.png", "seam", 3),
        ),
        (
            [_studio_task(_studio_region("brushlabels", rle=[]))],
            UnreadShape("region of type brushlabels", "1.png", "", 3),
        ),
    ],
    ids=["cvat", "cvat without label", "label studio", "label studio without label"],
)
def test_a_shape_that_is_no_mask_keeps_its_class_and_number(tmp_path: Path, content: Any, unread: UnreadShape) -> None:
    assert _read(tmp_path, content).unread == [unread]


@pytest.mark.parametrize(
    ("written", "number"),
    [("3", 3), (" 07 ", 7), (999_999_999, 999_999_999), ("1234567890", 0), ("-1", 0), ("²", 0), (None, 0), ("3.0", 0)],
)
def test_a_number_of_an_object_is_at_most_nine_digits(written: object, number: int) -> None:
    assert object_number(written) == number


def test_tasks_that_say_nothing_are_counted_and_those_after_them_read(tmp_path: Path) -> None:
    region = _studio_region("polygonlabels", **LABELLED)
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}
    unsent = {"data": {"image": "1.png"}, "annotations": []}
    elsewhere = _studio_task(region, image="9.png")
    named = _studio_task(relation, region, file_name="1.png", image="s3://bucket/0815")
    returned = _read(tmp_path, [unsent, unsent, 7, elsewhere, named])
    assert [(d.file_name, d.mask) for d in returned.drawn] == [("1.png", SQUARE)]
    assert returned.others == {
        "task that nobody has submitted": 2,
        "entry that is no task of Label Studio's JSON export": 1,
        "image that is not in the queue": 1,
    }
    with pytest.raises(DataError, match=r"region 2 of 1\.png: 'int' object"):
        _read(tmp_path, [_studio_task(region, 7)])


def test_shapes_of_an_image_that_is_not_in_the_queue_are_passed_over_with_it(tmp_path: Path) -> None:
    returned = _read(tmp_path, _cvat(f'<polygon label="seam" points="{_XY}"/>').replace("1.png", "9.png"))
    assert (returned.drawn, returned.others) == ([], {"image that is not in the queue": 1})


def test_a_width_that_is_not_the_queues_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="width must be the queue's 70, but is '71'"):
        _read(tmp_path, _cvat("", 'width="71" height="50"'))


def test_an_encoding_that_had_to_be_guessed_is_reported_once_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(_cvat(f'<polygon label="gr\u00fcn" points="{_XY}"/>').encode("cp1252"))
    returned = back.read_masks(tmp_path / "a.xml", ASKED)
    assert [d.label for d in returned.drawn] == ["gr\u00fcn"]
    ((told, count),) = returned.others.items()
    assert count == 1
    assert "cp1252" in told


def _asked_of(*labels: str) -> list[back.Asked]:
    """Objects of one image, side by side."""
    boxes = [(10.0 * k, 10.0, 10.0 * k + 9, 30.0) for k in range(len(labels))]
    return [
        back.Asked(n, "i/1", n - 1, "1.png", SIZE_HW, Instance(label, masks.from_box(box, size_hw=SIZE_HW), box))
        for n, (label, box) in enumerate(zip(labels, boxes, strict=True), 1)
    ]


def _drawn_at(one: back.Asked, label: str, number: int = 0) -> Drawn:
    return Drawn("1.png", label, masks.from_box(one.instance.box_xyxy, size_hw=SIZE_HW), number)


def test_a_mask_without_a_number_goes_to_no_object_of_another_class_nor_to_one_that_has_its_own() -> None:
    crack, seam = asked = _asked_of("crack", "seam")
    other = masks.from_box((0, 10, 4, 30), size_hw=SIZE_HW)
    parts = [Drawn("1.png", "crack", other, 1), _drawn_at(crack, "crack"), _drawn_at(seam, "crack")]
    outcome = back.decide(asked, came(*parts), removed_means_nothing=False, only_changed=False)
    assert outcome.corrections.of_image == {"i/1": {0: other}}
    assert outcome.skipped_shapes == ["1.png: 2 x mask of `crack` that fits no object of the queue"]


def test_an_object_stays_open_where_another_of_its_class_came_back() -> None:
    first, _, third = asked = _asked_of("crack", "crack", "crack")
    outcome = back.decide(
        asked,
        came(_drawn_at(first, "crack", 1), _drawn_at(third, "crack", 3)),
        removed_means_nothing=False,
        only_changed=True,
    )
    assert (outcome.unchanged, outcome.undecided) == (2, 1)


def test_a_mask_that_fits_the_only_object_of_its_image_not_at_all_is_passed_over() -> None:
    asked = _asked_of("crack")
    far = Drawn("1.png", "crack", masks.from_box((60, 40, 70, 50), size_hw=SIZE_HW))
    outcome = back.decide(asked, came(far), removed_means_nothing=False, only_changed=False)
    assert outcome.skipped_shapes == ["1.png: 1 x mask of `crack` that fits no object of the queue"]


def test_a_class_of_a_rectangle_may_be_spelled_as_another_tool_spells_it(tmp_path: Path) -> None:
    outcome = back.decide(ASKED, _read(tmp_path, _cvat('<box label=" CRACK"/>')), **_DECIDED)
    assert (outcome.nothing, outcome.undecided) == (0, 2)


def test_a_rectangle_of_one_object_does_not_keep_another(tmp_path: Path) -> None:
    both = [ASKED[0], back.Asked(2, "i/1", 1, "1.png", SIZE_HW, SAMPLES[0].instances[1])]
    for shape, left in (('<box label="seam"/>', 1), ('<box label="wall"/>', 0), ('<box label=""/>', 2)):
        (tmp_path / "a.xml").write_text(_cvat(shape))
        outcome = back.decide(both, back.read_masks(tmp_path / "a.xml", both), **_DECIDED)
        assert (outcome.undecided, outcome.nothing) == (left, 2 - left)
    (tmp_path / "a.xml").write_text(_cvat('<box label="wall"><attribute name="object">2</attribute></box>'))
    outcome = back.decide(both, back.read_masks(tmp_path / "a.xml", both), **_DECIDED)
    assert outcome.corrections.of_image == {"i/1": {0: None}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask": {"size": [10, 10], "counts": "T3"}}, r"image's \(50, 70\), but is \(10, 10\)"),
        ({"index": 2}, "has no object 2"),
        ({"index": -1}, "has no object -1"),
        ({"image_id": "i/9"}, "KeyError"),
        ({"box_xyxy": [1, 2, 3]}, "not enough values"),
        ({"box_xyxy": [9, 9, 1, 1]}, "x1 <= x2"),
        ({"box_xyxy": [math.nan] * 4}, "x1 <= x2"),
        ({"score": "high"}, "could not convert"),
        ({"mask": 7}, "ValueError|TypeError"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_queue_that_was_changed_is_refused(
    tmp_path: Path, doubts: list[Doubt], changes: dict[str, Any], said: str
) -> None:
    back.write_queue(tmp_path, _tasks(doubts), "hash")
    content = json.loads((tmp_path / back.FILE).read_text())
    content["objects"][0].update(changes)
    (tmp_path / back.FILE).write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"queue.json must be as .*({said}).* Export anew"):
        back.read_queue(tmp_path / back.FILE, "hash", SAMPLES)


@pytest.mark.parametrize("content", ["[]", "{}", "7", '{"dataset": "hash", "objects": 7}', "[" * 5000])
def test_a_queue_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / back.FILE).write_text(content)
    with pytest.raises(DataError, match=r"queue.json"):
        back.read_queue(tmp_path / back.FILE, "hash", SAMPLES)


def test_a_stored_mask_of_another_size_than_its_image_is_refused_with_its_file(tmp_path: Path) -> None:
    file = str(tmp_path / "c.json")
    Corrections({"i/1": {0: masks.from_box((1, 1, 9, 9), size_hw=(10, 10))}}).save(file)
    with pytest.raises(DataError, match=r"c.json: the mask of object 0 of i/1 must .* \(50, 70\), but has \(10, 10\)"):
        Corrections.load(file).apply(SAMPLES[0])


@pytest.mark.parametrize(
    "entry", ["[10, 10]", "[10, 10, 7]", '[-1, 10, "0"]', '[100000, 100000, "0"]', "7", '[2, 2, "0"]']
)
def test_corrections_that_are_no_masks_are_refused_with_their_file(tmp_path: Path, entry: str) -> None:
    (tmp_path / "c.json").write_text(f'{{"i/1": {{"0": {entry}}}}}')
    with pytest.raises(DataError, match=r"c.json must hold masks by image and object"):
        Corrections.load(str(tmp_path / "c.json"))
