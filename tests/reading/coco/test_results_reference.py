"""Scores of results are those of pycocotools on the same files: boxes as they are given, masks as they are drawn."""

import contextlib
import copy
import io
import json
import math
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segdist.commands.evaluate import evaluate_results
from segdist.core.errors import DataError
from segdist.metrics import evaluate
from segdist.reading.coco.results import read_results

HEIGHT, WIDTH = 60, 80
NAMES = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100",
         "ar_small", "ar_medium", "ar_large")  # fmt: skip
Json = dict[str, Any]


def reference(truth: Json, results: list[Json], kind: str) -> dict[str, float]:
    """What pycocotools says; without the boxes where masks are measured, or their areas would decide what is small."""
    shown = [
        {key: value for key, value in result.items() if key not in (("bbox",) if kind == "segm" else ("segmentation",))}
        for result in copy.deepcopy(results)
    ]
    for result in shown:
        if "segmentation" in result:
            result["segmentation"] = merged(result["segmentation"])
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = copy.deepcopy(truth)
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(shown), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {n: math.nan if v == -1 else round(float(v), 12) for n, v in zip(NAMES, evaluation.stats, strict=True)}


def merged(polygons: list[list[float]]) -> Json:
    rle: Json = coco_mask.merge(coco_mask.frPyObjects(polygons, HEIGHT, WIDTH))
    return rle


def ours(folder: Path, truth: Json, results: Any) -> dict[str, float]:
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    found = read_results(folder / "results.json", folder / "truth.json")
    predictions = [prediction for _, prediction in found.pairs()]
    return evaluate(found.samples, predictions, classes=found.classes, min_score=0.3, metrics=["mask_ap", "box_ap"])


def polygon(rng: np.random.Generator) -> list[float]:
    """Mostly inside; at times beyond the frame."""
    middle, reach = rng.uniform((-5, -5), (WIDTH + 5, HEIGHT + 5)), rng.uniform(2, 35)
    return [float(v) for v in (middle + rng.uniform(-reach, reach, (rng.integers(3, 7), 2))).ravel()]


def box_of(rle: Json, rng: np.random.Generator) -> list[float]:
    """The mask's own, shaken; at times somewhere else, of no width or height, or outside."""
    box = coco_mask.toBbox(rle) + rng.uniform(-2, 2, 4)
    box[2:] = np.abs(box[2:])
    chance = rng.random()
    if chance < 0.1:
        box[:2] += rng.uniform(-90, 90, 2)
    elif chance < 0.2:
        box[rng.integers(2, 4)] = 0
    return [float(v) for v in box]


def case(seed: int) -> tuple[Json, list[Json]]:
    """An annotation file and results with boxes and masks that need not agree."""
    rng = np.random.default_rng(seed)
    annotations: list[Json] = []
    results: list[Json] = []
    images = [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(1, 6)]
    for image in images:
        for _ in range(rng.integers(0, 5)):
            parts = [polygon(rng) for _ in range(rng.integers(1, 3))]
            rle, category = merged(parts), int(rng.integers(1, 4))
            if not coco_mask.area(rle):
                continue
            owner = {"image_id": image["id"], "category_id": category}
            own = {"area": int(coco_mask.area(rle)), "iscrowd": 0, "segmentation": parts, "bbox": box_of(rle, rng)}
            annotations.append({"id": len(annotations) + 1, **owner, **own})
            for _ in range(rng.integers(0, 3)):
                near = [[v + float(rng.uniform(-1, 1)) for v in part] for part in parts]
                score = float(rng.choice([0.2, 0.5, 0.9]))
                found = {"segmentation": near, "bbox": box_of(rle, rng) if rng.random() < 0.5 else own["bbox"]}
                results.append({**owner, "score": score, **found})
    categories = [{"id": k, "name": name} for k, name in enumerate(("crack", "seam", "trim"), start=1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_masks_and_boxes_are_scored_as_by_pycocotools(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    truth, results = case(seed)
    if truth["annotations"] and results:
        values = ours(tmp_path_factory.mktemp("case"), truth, results)
        for kind, name in (("segm", "mask"), ("bbox", "box")):
            expected = reference(truth, results, kind)
            assert {n: values[f"{name}_{n}"] for n in NAMES} == pytest.approx(expected, abs=1e-9, nan_ok=True), kind


BOX = [20.0, 20.0, 80.0, 80.0]
TRIANGLE = [[20.0, 20.0, 100.0, 20.0, 60.0, 60.0]]


def one(**result: Any) -> tuple[Json, Json]:
    """A truth of one square, and a result."""
    image = {"id": 1, "file_name": "1.png", "height": 120, "width": 120}
    square = [[20.0, 20.0, 100.0, 20.0, 100.0, 100.0, 20.0, 100.0]]
    true = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 6400, "iscrowd": 0, "segmentation": square}
    truth = {"info": {}, "images": [image], "annotations": [true], "categories": [{"id": 1, "name": "crack"}]}
    return truth, {"image_id": 1, "category_id": 1, "score": 0.8, "bbox": BOX, **result}


def test_a_box_that_is_given_counts_whatever_the_mask_beside_it(tmp_path: Path) -> None:
    truth, result = one(segmentation=TRIANGLE)
    values = ours(tmp_path, truth, [result])
    assert values["box_ap"] == reference(truth, [result], "bbox")["ap"] == 1
    assert values["mask_ap"] < 0.1
    nothings: list[Any] = [None, []]
    for nothing in nothings:
        assert ours(tmp_path, truth, [{**result, "bbox": nothing}])["box_ap"] < 0.1


@pytest.mark.parametrize(
    "bbox",
    [[50, 50, 0, 20], [50, 50, 20, 0], [30, 30, 0, 0], [500, 500, 10, 10], [-90, 5, 40, 40], [50, 50, -10, -20],
     [60, 60, -40, -40], [50, 50, -10, 20], [50, 50, 20, -1]],
)  # fmt: skip
def test_a_box_that_cannot_be_right_is_scored_as_by_pycocotools(tmp_path: Path, bbox: list[float]) -> None:
    truth, good = one()
    results = [good, {**good, "score": 0.9, "bbox": bbox}]
    expected = reference(truth, results, "bbox")
    assert expected["ap"] == (1.0 if bbox[2] * bbox[3] < 0 else 0.5)
    values = ours(tmp_path, truth, results)
    assert {n: values[f"box_{n}"] for n in ("ap", "ap_50", "ap_75", "ar_10", "ar_100")} == pytest.approx(
        {n: expected[n] for n in ("ap", "ap_50", "ap_75", "ar_10", "ar_100")}
    )
    notes = evaluate_results(tmp_path / "results.json", tmp_path / "truth.json", min_score=0.3)["notes"]
    assert any("one negative side" in note for note in notes) == (bbox[2] * bbox[3] < 0)


def test_true_boxes_count_as_they_are_written(tmp_path: Path) -> None:
    truth, result = one(bbox=[-30.0, 20.0, 80.0, 80.0])
    truth["annotations"][0]["bbox"] = result["bbox"]
    assert ours(tmp_path, truth, [result])["box_ap"] == reference(truth, [result], "bbox")["ap"] == 1


def pothole(folder: Path, change: Callable[[Json, list[Json]], Any]) -> dict[str, float]:
    """Scores of perfect results after a change of the files; two cameras, two spellings of a class."""
    names = ("cam1/0001.png", "cam2/0001.png", "cam2/0002.png")
    images = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names, start=1)]
    annotations, results = [], []
    for n in range(1, 7):
        x, y = 8.0 * n, 5.0 * n
        shape = {"segmentation": [[x, y, x + 9, y, x + 9, y + 12, x, y + 12]], "bbox": [x, y, 9.0, 12.0]}
        owner = {"image_id": (n - 1) % 3 + 1, "category_id": 1 + n % 2, **shape}
        annotations.append({"id": n, **owner, "area": 108, "iscrowd": 0})
        results.append({**owner, "score": 0.9})
    categories = [{"id": 1, "name": "caf\u00e9"}, {"id": 2, "name": "seam"}]
    truth = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    return ours(folder, truth, change(truth, results))


def _as_coco(truth: Json, results: list[Json], **categories: str) -> Json:
    """Results as a COCO file with ids and an order of its own."""
    images = [{**image, "id": 100 - image["id"]} for image in reversed(truth["images"])]
    listed = [{"id": 7 - c["id"], "name": categories.get(c["name"], c["name"])} for c in truth["categories"]]
    own = [{**r, "image_id": 100 - r["image_id"], "category_id": 7 - r["category_id"]} for r in results]
    return {"images": images, "annotations": own, "categories": listed}


def _as_is(_: Json, results: list[Json]) -> Any:
    return results


def _two_spellings(truth: Json, results: list[Json]) -> Any:
    truth["categories"] = [{"id": 1, "name": "Pothole"}, {"id": 2, "name": "pothole"}]
    return results


def _numbers_as_text(_: Json, results: list[Json]) -> Any:
    return [{**r, "image_id": f" {r['image_id']}", "category_id": str(r["category_id"])} for r in results]


def _numbers_as_floats(_: Json, results: list[Json]) -> Any:
    return [{**r, "image_id": float(r["image_id"]), "category_id": float(r["category_id"])} for r in results]


def _true_ids_as_text(truth: Json, results: list[Json]) -> Any:
    for image in truth["images"]:
        image["id"] = str(image["id"])
    for annotation in truth["annotations"]:
        annotation["image_id"] = float(annotation["image_id"])
    return results


def _other_unicode_form(truth: Json, results: list[Json]) -> Any:
    return _as_coco(truth, results, café=unicodedata.normalize("NFD", " CAF\u00c9"))


def _in_folders(truth: Json, results: list[Json]) -> Any:
    return _as_coco(truth, results)


def _absolute_truth(truth: Json, results: list[Json]) -> Any:
    content = _as_coco(copy.deepcopy(truth), results)
    for image in truth["images"]:
        image["file_name"] = f"/data/set/{image['file_name']}"
    return content


def _absolute_truth_and_a_list(truth: Json, results: list[Json]) -> Any:
    _absolute_truth(truth, results)
    return results


def _of_windows(truth: Json, results: list[Json]) -> Any:
    content = _as_coco(truth, results)
    for image in content["images"]:
        image["file_name"] = "C:\\photos\\" + image["file_name"].replace("/", "\\").upper()
    return content


def _further_classes(truth: Json, results: list[Json]) -> Any:
    content = _as_coco(truth, results)
    content["categories"] += [{"id": 50, "name": "dog"}]
    return content


@pytest.mark.parametrize(
    "change",
    [_as_is, _two_spellings, _numbers_as_text, _numbers_as_floats, _true_ids_as_text, _other_unicode_form, _in_folders,
     _absolute_truth, _absolute_truth_and_a_list, _of_windows, _further_classes],
)  # fmt: skip
def test_perfect_results_are_perfect_however_ids_and_names_are_written(
    tmp_path: Path, change: Callable[[Json, list[Json]], Any]
) -> None:
    values = pothole(tmp_path, change)
    assert values["mask_ap"] == values["box_ap"] == 1
    assert len([name for name in values if name.startswith("mask_ap/")]) == (1 if change is _two_spellings else 2)


def _without_folders(truth: Json, results: list[Json]) -> Any:
    content = _as_coco(truth, results)
    for image in content["images"]:
        image["file_name"] = image["file_name"].rpartition("/")[2]
    return content


def _without_its_folder(truth: Json, results: list[Json]) -> Any:
    content = _as_coco(truth, results)
    content["images"][-1]["file_name"] = "0001.png"
    return content


def _of_a_third_camera(truth: Json, results: list[Json]) -> Any:
    content = _as_coco(truth, results)
    content["images"][0]["file_name"] = "cam3/0003.png"
    return content


def _unknown_class(truth: Json, results: list[Json]) -> Any:
    return _as_coco(truth, results, seam="steam")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_folders, r"results\.json: 1 errors?:\n.*image 0001\.png: the same file is listed twice"),
        (_without_its_folder, r"`0001\.png` could be any of cam1/0001\.png, cam2/0001\.png; write its folder"),
        (_of_a_third_camera, r"`cam3/0003\.png` is no image of the annotations"),
        (_unknown_class, r"category `steam`, which the annotations have not\. They have: caf\u00e9, seam"),
        (lambda _, results: [{**results[0], "image_id": True}], "no image with id True"),
        (lambda _, results: [{**results[0], "image_id": 1.5}], r"no image with id 1\.5"),
        (lambda _, results: [{**results[0], "bbox": [1, 2, float("nan"), 4]}], "bbox must hold finite numbers"),
        (lambda truth, results: _as_coco(truth, results) | {"images": [{"id": 1}]}, "image-malformed"),
    ],
)
def test_what_stands_for_nothing_is_named(tmp_path: Path, change: Callable[[Json, list[Json]], Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        pothole(tmp_path, change)


def test_what_was_repaired_and_boxes_beside_masks_are_notes(tmp_path: Path) -> None:
    truth, result = one(segmentation=TRIANGLE)
    truth["annotations"][0]["segmentation"] = [[-5, 20, 100, 20, 100, 100]]
    ours(tmp_path, truth, [result, {key: value for key, value in result.items() if key != "segmentation"}])
    notes = evaluate_results(tmp_path / "results.json", tmp_path / "truth.json", min_score=0.3)["notes"]
    assert any("repaired[annotation-repaired] x1: the polygon reaches 5 pixels outside" in note for note in notes)
    assert any("boxes without masks: 1 of 2 results" in note for note in notes)


def test_results_of_a_category_that_groups_others_count_nowhere_as_in_pycocotools(tmp_path: Path) -> None:
    truth, result = one(segmentation=TRIANGLE, bbox=BOX)
    truth["categories"] = [
        {"id": 0, "name": "defects", "supercategory": "none"},
        {"id": 1, "name": "crack", "supercategory": "defects"},
    ]
    results = [result, {**result, "category_id": 0, "score": 0.9}]
    values = ours(tmp_path, truth, results)
    assert values["box_ap"] == reference(truth, results, "bbox")["ap"] == 1
    notes = read_results(tmp_path / "results.json", tmp_path / "truth.json").notes
    assert any("1 result is of a category that only groups others" in note for note in notes)
