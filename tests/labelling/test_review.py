"""Review: the queue's order, every tool's files there and back to the pixel, and what people's changes mean."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from segdist import masks
from segdist.errors import DataError
from segdist.labelling.corrections import Corrections
from segdist.labelling.review import back, coco, cvat, label_studio
from segdist.labelling.review.queue import Doubt, Drawn, Task, by_image, queue
from segdist.records import Evidence, Instance, Sample, Verdict

SIZE_HW = (50, 70)
_OUTSIDE = (
    '<a><image name="1" width="9" height="9">'
    '<mask label="c" rle="3" left="8" top="0" width="3" height="1"/></image></a>'
)


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
    asked = back.read_queue(tmp_path / back.FILE, "hash")
    outcome = back.decide(asked, back.read_masks(file), removed_means_nothing=False, only_changed=False)
    assert (outcome.confirmed, outcome.corrected, outcome.undecided, outcome.strangers) == (4, 0, 0, [])
    for doubt in doubts:
        assert outcome.corrections.of_image[doubt.image_id][doubt.index] == doubt.mask


def test_brush_regions_are_read_as_their_format_says() -> None:
    """A stream written by hand: a repeated run of 3 values, then 5 literal ones, over 2 pixels of 4 channels."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{s - 1:04b}" for s in (3, 4, 8, 16))
    bits += "1" + "00" + f"{2:03b}" + f"{0:08b}"
    bits += "0" + "01" + f"{4:04b}" + "".join(f"{v:08b}" for v in (0, 9, 9, 9, 255))
    packed = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert masks.decode(label_studio.decode_brush(packed, (1, 2))).tolist() == [[False, True]]
    with pytest.raises(ValueError, match="must have 4 x 2 x 2 values"):
        label_studio.decode_brush(packed, (2, 2))


def test_run_lengths_of_cvat_go_row_by_row_and_begin_with_unset_pixels() -> None:
    assert cvat.row_runs(np.array([[0, 1, 1], [1, 0, 0]], bool)) == [1, 3, 2]
    assert cvat.row_runs(np.array([[1, 1], [0, 1]], bool)) == [0, 2, 1, 1]


def test_polygons_that_people_draw_are_taken_too(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        '<annotations><image id="0" name="folder/1.png" width="70" height="50">'
        '<polygon label="crack" points="10,10;30,10;30,30;10,30"/></image></annotations>'
    )
    (drawn,) = back.read_masks(tmp_path / "a.xml")
    assert drawn.file_name == "1.png"
    assert drawn.mask == masks.from_box((10, 10, 30, 30), size_hw=SIZE_HW)


def test_without_numbers_masks_are_given_to_the_box_of_their_class_that_fits_best(
    tmp_path: Path, doubts: list[Doubt]
) -> None:
    _write_all(tmp_path, doubts)
    asked = back.read_queue(tmp_path / back.FILE, "hash")
    drawn = [Drawn(d.file_name, d.instance.label, d.instance.mask) for d in asked if d.instance.mask]
    outcome = back.decide(asked, drawn[::-1], removed_means_nothing=False, only_changed=False)
    assert outcome.confirmed == 4
    far = Drawn("1.png", "crack", masks.from_box((66, 0, 70, 3), size_hw=SIZE_HW))
    outcome = back.decide(
        asked, [*drawn, far, replace(far, file_name="9.png")], removed_means_nothing=False, only_changed=False
    )
    assert len(outcome.strangers) == 2


def test_only_what_a_person_decided_is_taken_over(tmp_path: Path, doubts: list[Doubt]) -> None:
    _write_all(tmp_path, doubts)
    asked = back.read_queue(tmp_path / back.FILE, "hash")
    changed, same, *_ = asked
    other = masks.from_box(changed.instance.box_xyxy, size_hw=SIZE_HW)
    drawn = [
        Drawn(changed.file_name, "", other, changed.number),
        Drawn(same.file_name, "", same.instance.mask or other, same.number),
    ]
    careful = back.decide(asked, drawn, removed_means_nothing=False, only_changed=True)
    assert (careful.corrected, careful.confirmed, careful.undecided) == (1, 0, 3)
    assert careful.corrections.of_image == {changed.image_id: {changed.index: other}}
    thorough = back.decide(asked, drawn, removed_means_nothing=True, only_changed=False)
    assert (thorough.corrected, thorough.confirmed) == (1, 1)
    alone = back.decide(asked, drawn[:1], removed_means_nothing=True, only_changed=False)
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
        ("a.json", "{]", "must be COCO or Label Studio JSON"),
        ("a.json", '{"images": []}', "A COCO file must hold"),
        ("a.json", '[{"annotations": [{"result": [{"type": "b"}]}], "data": {"image": "x"}}]', "must hold tasks"),
        ("a.xml", "<annotations><image", "CVAT for images 1.1"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "CVAT for images 1.1"),
        ("a.xml", _OUTSIDE, "a mask of 3 x 1"),
    ],
)
def test_files_that_are_not_what_they_seem_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        list(back.read_masks(tmp_path / name))


def test_a_queue_of_other_data_is_refused(tmp_path: Path, doubts: list[Doubt]) -> None:
    back.write_queue(tmp_path, _tasks(doubts), "hash")
    with pytest.raises(DataError, match="is about the data set hash"):
        back.read_queue(tmp_path / back.FILE, "other")
