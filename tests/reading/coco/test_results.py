"""Other tools' results are read in every form, and what is wrong with them is named with its place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdist.commands.evaluate import evaluate_results
from segdist.core import masks
from segdist.core.errors import DataError
from segdist.metrics import evaluate
from segdist.reading.coco.results import read_results
from tests.metrics.drawn import CLASSES, coco_results, coco_truth, generated


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    samples, _ = generated(4, images=8)
    content = coco_truth(samples)
    for image in content["images"]:
        image["file_name"] = f"{image['id']:03d}.png"
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    return file


def written(folder: Path, results: Any) -> Path:
    file = folder / "results.json"
    file.write_text(results if isinstance(results, str) else json.dumps(results))
    return file


def without(result: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k not in keys}


def test_the_scores_are_those_of_the_evaluator_on_the_same_instances(truth: Path, tmp_path: Path) -> None:
    samples, predictions = generated(4, images=8)
    file = written(tmp_path, [without(r, "bbox", "area") for r in coco_results(predictions)])
    found = evaluate_results(file, truth, min_score=0.3)
    expected = evaluate(samples, predictions, classes=CLASSES, min_score=0.3)
    named = {n: v for n, v in expected.items() if not np.isnan(v)}
    measured = {name: value for name, value in found["metrics"].items() if not name.startswith("predicted/")}
    assert measured == pytest.approx(named, abs=1e-12)
    assert len(found["images"]) == 8
    json.dumps(found, allow_nan=False)


def test_compressed_and_plain_rle_and_polygons_mean_the_same(truth: Path, tmp_path: Path) -> None:
    square = masks.decode(masks.from_box((10, 20, 30, 40), size_hw=(60, 80)))
    runs = np.diff(np.flatnonzero(np.diff(np.r_[-1, square.T.ravel().astype(int), -1]))).tolist()
    plain = {"size": [60, 80], "counts": [int(np.argmax(square.T.ravel())), *runs[1:]]}
    packed = {"size": [60, 80], "counts": masks.encode(square).counts.decode()}
    polygon = [[10, 20, 30, 20, 30, 40, 10, 40]]
    areas = []
    for segmentation in (plain, packed, polygon):
        result = {"image_id": 0, "category_id": 1, "score": 0.9, "segmentation": segmentation}
        (instance,) = read_results(written(tmp_path, [result]), truth).found["000.png"]
        assert instance.mask is not None
        areas.append(instance.mask.area)
    assert areas == [400, 400, 400]


def test_boxes_alone_are_scored_as_boxes_and_a_note_says_so(truth: Path, tmp_path: Path) -> None:
    samples, predictions = generated(4, images=8)
    file = written(tmp_path, [without(r, "segmentation", "area") for r in coco_results(predictions)])
    found = evaluate_results(file, truth, min_score=0.3)
    expected = evaluate(samples, predictions, classes=CLASSES, min_score=0.3, metrics=["box_ap"])
    assert found["metrics"]["box_ap"] == pytest.approx(expected["box_ap"])
    assert "iou" not in found["metrics"]
    assert "boxes without masks" in found["notes"][0]


def test_no_result_at_all_is_zero(truth: Path, tmp_path: Path) -> None:
    found = evaluate_results(written(tmp_path, []), truth, min_score=0.3)
    assert found["metrics"]["iou"] == found["metrics"]["mask_ap"] == found["metrics"]["box_ap"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 99}, r"result 0 \(image_id 99\): there is no image with id 99"),
        ({"category_id": 42}, "there is no category with id 42"),
        ({"score": None}, "`score` must be a number from 0 to 1, but is None"),
        ({"score": 1.5}, "but is 1.5"),
        ({"segmentation": {"size": [60, 80], "counts": [1, 2]}}, "RLE counts must sum to h x w = 4800"),
        ({"segmentation": {"size": [80, 60], "counts": [4800]}}, r"RLE size \(h, w\) must be the image's"),
        ({"segmentation": [[1, 2, 3]]}, "a polygon must have x and y"),
        ({"segmentation": None}, "needs a `segmentation` or a `bbox`"),
        ({"segmentation": None, "bbox": [1, 2, 3]}, "bbox must be"),
    ],
)
def test_a_wrong_result_is_named(truth: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = {"image_id": 0, "category_id": 1, "score": 0.9, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    with pytest.raises(DataError, match=said):
        read_results(written(tmp_path, [{**good, **change}]), truth)


@pytest.mark.parametrize(("content", "said"), [("{", "must be JSON"), ("3", "must be a list of results")])
def test_a_file_that_holds_no_results_is_named(truth: Path, tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_results(written(tmp_path, content), truth)
    with pytest.raises(DataError, match="There is no file"):
        read_results(tmp_path / "nowhere.json", truth)
