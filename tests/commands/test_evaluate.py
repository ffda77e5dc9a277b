"""`segdist evaluate`: a model over data in any form, another tool's results, and what users get wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from segdist.cli import app
from segdist.commands import evaluate as module
from segdist.core.spec import DataSpec
from segdist.datasets.build import build, here
from segdist.engine import checkpoint
from segdist.engine.predict import score
from segdist.engine.workers import Workers
from segdist.metrics import evaluate
from tests.engine.drawn import CLASSES, roofs, tiny_run
from tests.metrics.drawn import coco_results, coco_truth, generated

ROWS = roofs(4)
RUN = tiny_run()


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def answer(*arguments: str | Path) -> dict[str, Any]:
    found = call(*arguments, "--json")
    assert found.exit_code == 0, found.output
    content: dict[str, Any] = json.loads(found.stdout)
    return content


def refused(*arguments: str | Path) -> str:
    found = call(*arguments)
    assert found.exit_code == 2, found.output
    return " ".join(found.stderr.split())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = checkpoint.build(RUN.model, CLASSES)
    checkpoint.save(network, tmp_path / "model", RUN, CLASSES)
    return tmp_path / "model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The drawn roofs as a COCO folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "roof"}]}
    for number, (sample, image_bytes) in enumerate(ROWS):
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 32, "width": 32})
        (folder / f"{number}.png").write_bytes(image_bytes)
        for instance in sample.instances:
            assert instance.mask is not None
            x1, y1, x2, y2 = instance.mask.box_xyxy
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                    "segmentation": {"size": [32, 32], "counts": instance.mask.counts.decode()},
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": instance.mask.area,
                }
            )  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, Path]:
    """Another tool's results, and the annotations they belong to."""
    samples, predictions = generated(4, images=8)
    truth, file = tmp_path / "annotations.json", tmp_path / "results.json"
    content = coco_truth(samples)
    for image in content["images"]:
        image["file_name"] = f"{image['id']:03d}.png"
    truth.write_text(json.dumps(content))
    file.write_text(json.dumps(coco_results(predictions)))
    return file, truth


def test_a_model_over_a_folder_scores_as_it_does_in_training(model: Path, photos: Path) -> None:
    found = answer(model, photos)
    network = checkpoint.load(model)
    expected, _ = score(network, ROWS, RUN.evaluate, workers=Workers())
    assert found["metrics"]["iou"] == pytest.approx(expected["iou"], abs=1e-12)
    assert found["images_total"] == len(found["images"]) == 4
    assert found["metrics"]["runtime/latency_p50_ms"] > 0
    assert found["metrics"]["model/bytes"] > 1000
    assert found["notes"] == ["all images"]


def test_a_sweep_file_gives_the_split_that_is_asked_for(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "roofs.yaml"
    file.write_text(
        f"name: roofs\nstorage: {tmp_path}\nmodel: {{family: unet_cbam}}\n"
        "data: {sources: [{format: synthetic, scene: roofs, count: 20, size: 32}]}\n"
    )
    assert answer(model, file)["notes"] == ["split test"]
    assert answer(model, file, "--split", "val")["notes"] == ["split val"]
    assert "has no split `vall`. Did you mean `val`?" in refused(model, file, "--split", "vall")


def test_what_is_done_around_the_network_is_named_and_logged(model: Path, photos: Path) -> None:
    plain = answer(model, photos)
    found = answer(
        model,
        photos,
        "--tta",
        "--tile",
        "16",
        "--guided-filter",
        "--min-area-fraction",
        "0.01",
        "--fill-holes-pixels",
        "9",
        "--instances",
        "watershed",
    )
    assert found["notes"] == [
        "all images",
        "tiles of 16 pixels, overlapping by 12.5%",
        "views: the image, flip, darker, brighter",
        (
            "post-processing: guided filter, parts below 1.00% of the image removed, holes below 9 pixels filled, "
            "objects cut apart at their necks"
        ),
    ]
    assert found["evaluate"]["post"]["min_area_fraction"] == 0.01
    assert found["evaluate"]["tile"] == {"size": 16, "overlap": 0.125}
    of_one_tile = plain["metrics"]["runtime/gflops"]
    assert found["metrics"]["runtime/gflops"] > 4 * of_one_tile, "four views of several tiles cost what they cost"
    assert plain["evaluate"]["post"]["refine"] == "none"


def test_flags_that_cannot_be_are_refused_with_the_rule(model: Path, photos: Path) -> None:
    assert "exclude each other" in refused(model, photos, "--crf", "--guided-filter")
    assert "takes a side in pixels or `network`, but got -3" in refused(model, photos, "--tile=-3")


def test_the_tables_name_every_class_and_the_worst_group(results: tuple[Path, Path]) -> None:
    found = call("--predictions", results[0], "--truth", results[1])
    assert found.exit_code == 0, found.output
    assert "8 images" in " ".join(found.stdout.split())
    assert all(name in found.stdout for name in ("crack", "seam", "trim", "boundary_iou", "mask_ap_50", "P10"))


def test_another_tools_results_get_every_metric_of_the_evaluator(results: tuple[Path, Path]) -> None:
    samples, predictions = generated(4, images=8)
    found = answer("--predictions", results[0], "--truth", results[1], "--min-score", "0.5")
    expected = evaluate(samples, predictions, classes=found["classes"], min_score=0.5)
    measured = {name: value for name, value in found["metrics"].items() if not name.startswith("predicted/")}
    assert len(measured) > 100
    for name, value in measured.items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


@pytest.mark.parametrize("kind", ["rle", "polygon", "box"])
def test_results_may_be_run_lengths_polygons_or_boxes(results: tuple[Path, Path], kind: str) -> None:
    shapes: dict[str, dict[str, Any]] = {
        "rle": {"segmentation": {"size": [60, 80], "counts": [10 * 60 + 20, 20, 4160]}},
        "polygon": {"segmentation": [[10, 20, 30, 20, 30, 40, 10, 40]]},
        "box": {"bbox": [10, 20, 20, 20]},
    }
    results[0].write_text(json.dumps([{"image_id": 0, "category_id": 1, "score": 0.9, **shapes[kind]}]))
    found = answer("--predictions", results[0], "--truth", results[1])
    assert ("iou" in found["metrics"]) == (kind != "box")
    assert "box_ap" in found["metrics"]
    assert bool(found["notes"]) == (kind == "box")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON"),
        ('"text"', "must be a list of results, or a COCO file"),
        ('[{"image_id": 99, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}]', "no image with id 99"),
        ('[{"image_id": 0, "category_id": 77, "score": 0.5, "bbox": [0, 0, 1, 1]}]', "no category with id 77"),
        ('[{"image_id": 0, "category_id": 1, "score": 2, "bbox": [0, 0, 1, 1]}]', "from 0 to 1, but is 2"),
        ('[{"image_id": 0, "category_id": 1, "score": NaN, "bbox": [0, 0, 1, 1]}]', "from 0 to 1, but is nan"),
        ('[{"image_id": 0, "category_id": 1, "score": 1}]', "needs a `segmentation` or a `bbox`"),
    ],
)
def test_bad_results_are_one_message_with_the_place(results: tuple[Path, Path], content: str, message: str) -> None:
    results[0].write_text(content)
    said = refused("--predictions", results[0], "--truth", results[1])
    assert message in said
    assert "results.json" in said


def test_what_does_not_go_together_is_refused_with_the_fix(
    results: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    assert "go together, without a model" in refused("--predictions", results[0])
    assert "go together, without a model" in refused(
        model, tmp_path, "--predictions", results[0], "--truth", results[1]
    )
    assert "segdist evaluate MODEL DATA" in refused(model)
    assert "There is no file" in refused("--predictions", tmp_path / "none.json", "--truth", results[1])


def test_data_of_other_classes_are_refused_and_further_classes_are_named(model: Path, photos: Path) -> None:
    file = photos / "annotations.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 2, "name": "chimney"})
    content["annotations"][0]["category_id"] = 2
    file.write_text(json.dumps(content))
    assert "the model does not know chimney: left out" in answer(model, photos)["notes"]
    content["categories"][0]["name"] = "chimney"
    content["categories"].pop()
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    file.write_text(json.dumps(content))
    assert "The model knows roof" in refused(model, photos)


def test_classes_that_differ_in_spelling_alone_are_those_of_the_model(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(model, photos)["metrics"]
    file = photos / "annotations.json"
    file.write_text(file.read_text().replace('"roof"', '" ROOF"'))
    found = answer(model, photos)
    assert found["metrics"]["mask_ap"] == pytest.approx(expected["mask_ap"])
    assert found["metrics"]["iou"] == pytest.approx(expected["iou"])

    source = {"sources": [{"format": "coco", "path": str(photos)}], "split": {"val": 0.25, "test": 0.25}}
    dataset = build(str(tmp_path / "data"), DataSpec.model_validate(source), here)
    assert dataset.manifest.classes == ("ROOF",)
    monkeypatch.setattr(module, "find_or_build", lambda *_: dataset)
    monkeypatch.setattr(module, "load", lambda _: None)
    (tmp_path / "sweep.yaml").write_text("name: x\ndata: {}\n")
    rows, notes = module.rows_of(str(tmp_path / "sweep.yaml"), "train", CLASSES)
    assert {i.label for sample, _ in rows for i in sample.instances} == set(CLASSES)
    assert rows[0:1][0][1] == rows[0][1]
    assert notes == ["split train"]
