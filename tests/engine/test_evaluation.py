"""One look at a model tells every metric, what it costs, and which images to look at."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.datasets.shards import read_rows
from segdist.engine import checkpoint, pictures, runtime
from segdist.engine.evaluation import EvaluationReport, evaluate_network, grouping, lighting
from segdist.engine.ranked_examples import examples_by_rank, ranked_examples
from segdist.metrics import names
from segdist.reading.examples import camera_of
from tests.engine.drawn import CLASSES, roofs, tiny_run
from tests.stand_in import StandIn

ROWS = roofs(6)
RUN = tiny_run()


@pytest.fixture(scope="module")
def found() -> EvaluationReport:
    network = checkpoint.build(RUN.model, CLASSES).eval()
    return evaluate_network(network, ROWS, RUN.evaluate)


def test_every_metric_and_every_cost_is_there(found: EvaluationReport) -> None:
    assert set(names()) <= found.metrics.keys()
    costs = {"latency_p50_ms", "latency_p95_ms", "images_per_second", "best_batch", "gflops"}
    assert all(found.metrics[f"runtime/{name}"] > 0 for name in costs)
    assert found.metrics["runtime/latency_p50_ms"] <= found.metrics["runtime/latency_p95_ms"]
    assert [image["image_id"] for image in found.images] == [sample.image_id for sample, _ in ROWS]


def test_what_is_written_is_json_without_nan_and_predictions_that_are_read_as_labels(
    found: EvaluationReport, tmp_path: Path
) -> None:
    found.write(tmp_path, "val", ROWS)
    content = json.loads((tmp_path / "val.json").read_text())
    assert set(content) == {"metrics", "consistency", "by_class", "images"}
    read = [sample for sample, _ in read_rows(str(tmp_path / "val.parquet"))]
    assert [s.image_id for s in read] == [p.image_id for p in found.predictions]
    assert [s.instances for s in read] == [p.instances for p in found.predictions]


def test_the_worst_median_and_best_images_are_different_ones_and_drawn(tmp_path: Path) -> None:
    images = [{"image_id": str(k), "iou": v} for k, v in enumerate((0.5, 0.1, 0.9, float("nan"), 0.3, 0.7))]
    shown = examples_by_rank(images, count=1)
    assert shown == {"worst": ["1"], "median": ["0"], "best": ["2"]}
    assert examples_by_rank(images[:1]) == {"worst": ["0"], "median": [], "best": []}


def test_ranked_pictures_are_files(found: EvaluationReport, tmp_path: Path) -> None:
    pictures.save_ranked_examples(tmp_path / "shown", ROWS, found, RUN.evaluate, classes=CLASSES)
    drawn = {p.name for p in (tmp_path / "shown").iterdir()}
    listed = json.loads((tmp_path / "shown" / "index.json").read_text())
    assert {one["file"] for one in listed} == drawn - {"index.json"}
    assert len({one["image_id"] for one in listed}) == len(drawn) - 1, "an image is drawn once"
    assert "worst-0.jpg" in drawn


def test_groups_have_ranked_images_too_the_worst_group_first() -> None:
    values = {"bright": (0.9, 0.8, 0.7), "dark": (0.2, 0.4, 0.1), "normal": (0.5, float("nan"))}
    images = [
        {"image_id": f"{light}-{k}", "iou": value, "facets": {"lighting": light, "size": "small"}}
        for light, of in values.items()
        for k, value in enumerate(of)
    ]
    found = ranked_examples(EvaluationReport({}, images=images))
    whole, groups = [t for t in found if not t.of], [t for t in found if t.of]
    assert [t.rank for t in whole] == ["worst"] * 3 + ["median"] + ["best"] * 3
    assert [(t.of, t.name, t.rank, t.image_id) for t in groups] == [
        ("lighting", "dark", "worst", "dark-2"),
        ("lighting", "dark", "median", "dark-0"),
        ("lighting", "dark", "best", "dark-1"),
        ("lighting", "bright", "worst", "bright-2"),
        ("lighting", "bright", "median", "bright-1"),
        ("lighting", "bright", "best", "bright-0"),
    ], "one image of each rank; a group with one defined image tells nothing"


def test_images_are_grouped_by_the_camera_that_their_metadata_name() -> None:
    def photo(make: str, model: str) -> bytes:
        exif = Image.Exif()
        exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = make, model
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", exif=exif)
        return file.getvalue()

    assert camera_of(photo("Canon", "Canon EOS 90D")) == "Canon EOS 90D"
    assert camera_of(photo("Apple", "iPhone 15")) == "Apple iPhone 15"
    assert camera_of(ROWS[0][1]) == ""
    assert camera_of(b"no image") == ""
    rows = [(replace(sample, size_hw=(16, 16), instances=()), photo("A", f"B{k // 2}")) for k, (sample, _) in
            enumerate(ROWS[:4])]  # fmt: skip
    network = checkpoint.build(RUN.model, CLASSES)
    found = evaluate_network(network, rows, RUN.evaluate)
    assert [image["facets"]["camera"] for image in found.images] == ["A B0", "A B0", "A B1", "A B1"]
    assert list(grouping([image["facets"] for image in found.images])) == ["camera"]


class Prompted(StandIn):
    """A model that hands a module one of its own parameters, as SAM does with its class prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = torch.nn.Parameter(torch.zeros(2, 3))
        self.layer = torch.nn.Linear(3, 5)

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        self.layer(self.queries)
        return []


def test_arithmetic_is_counted_where_a_module_is_given_a_parameter_which_stays_trainable() -> None:
    network = Prompted()
    values = runtime.flops(network, np.zeros((1, 1, 3), np.uint8), Prompt())
    assert values["runtime/gflops"] == pytest.approx(2 * 2 * 3 * 5 / 1e9)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_arithmetic_counts_a_convolution_exactly() -> None:
    class Network(StandIn):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)

        def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
            self.layer(torch.zeros(1, 3, *images[0].shape[:2]))
            return []

    network = Network()
    values = runtime.flops(network, np.zeros((16, 20, 3), np.uint8), Prompt())
    assert values["runtime/gflops"] == pytest.approx(2 * 16 * 20 * 8 * 3 * 9 / 1e9)


def test_throughput_stops_at_the_batch_that_does_not_fit() -> None:
    class Network(StandIn):
        def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
            if len(images) > 2:
                raise torch.OutOfMemoryError
            return []

    values = runtime.throughput(Network(), [np.zeros((4, 4, 3), np.uint8)], [Prompt()])
    assert values["runtime/best_batch"] in (1, 2)


def test_latency_is_the_percentile_in_milliseconds() -> None:
    seconds = [0.01 * k for k in range(1, 101)]
    assert runtime.latency(seconds)["runtime/latency_p95_ms"] == pytest.approx(1000 * np.percentile(seconds, 95))
    assert runtime.latency([]) == {}


def test_lighting_is_told_from_brightness_and_groups_of_single_images_are_no_groups() -> None:
    shades = [lighting(np.full((4, 4, 3), v, np.uint8)) for v in (20, 128, 240)]
    assert shades == ["dark", "normal", "bright"]
    images = [{"group": str(k), "lighting": shade} for k, shade in enumerate(["dark", "dark", "bright", "bright"])]
    assert grouping(images) == {"lighting": ["dark", "dark", "bright", "bright"]}
    assert grouping([]) == {}
