"""One look at a finished model over one split: every metric, consistency, what it costs, and single images."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segdist.core.json_values import JsonDict
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, LabelledImage, Prediction, Prompt, Sample
from segdist.core.spec import EvaluateSpec
from segdist.datasets.shards import write_shard
from segdist.engine import checkpoint, runtime
from segdist.engine.predict import box_prompt, predict, rates_of, segment
from segdist.engine.thresholds import tuned
from segdist.engine.workers import Workers
from segdist.metrics import Evaluator, are_groups, consistency, evaluator_of, per_image, shown_in
from segdist.nets.segmenter import Segmenter
from segdist.reading.examples import camera_of

DARK, BRIGHT = 0.35, 0.65
"""Mean brightness (Rec. 601 luma, 0..1) below and above which an image counts as dark and bright."""
PREDICTED = "prediction"
"""Source of labels that are a model's predictions."""
_TIMED = 20
"""Images that the latency of a model in training is the median of."""
_LARGEST = {"small, < 0.25 MP": 0.25e6, "medium, < 1 MP": 1e6, "large, < 4 MP": 4e6}


@dataclass(frozen=True)
class EvaluationReport:
    """What was found.

    Attributes:
        metrics: by name, without the split; NaN where undefined.
        consistency: of each metric shown with `intervals`, as JSON values.
        classes: for each class the spread of each metric shown with `spread` over single images, as JSON values; an
            object that was not found counts 0.
        images: for each image its id, metrics, seconds and groups, as JSON values.
        predictions: of each image, in order.
        min_scores: per class, where they were tuned on these images.
    """

    metrics: dict[str, float]
    consistency: list[dict[str, object]] = field(default_factory=list)
    images: list[JsonDict] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    min_scores: dict[str, float] = field(default_factory=dict)
    classes: dict[str, JsonDict] = field(default_factory=dict)

    def write(self, folder: Path, name: str, rows: Sequence[LabelledImage]) -> None:
        """Write `<name>.json`, and the predictions as labels into `<name>.parquet`.

        Args:
            folder: made where it is not there.
            name: of the split.
            rows: what was looked at, in the same order.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(self.to_json(), allow_nan=False))
        labels = (
            (replace(rows[k][0], instances=p.instances, source=PREDICTED), None) for k, p in enumerate(self.predictions)
        )
        write_shard(str(folder / f"{name}.parquet"), labels)

    def to_json(self) -> JsonDict:
        """Everything but the predictions, without NaN."""
        numbers = {k: v for k, v in self.metrics.items() if not np.isnan(v)}
        return {
            "metrics": numbers,
            "consistency": _without_nan(self.consistency),
            "by_class": _without_nan(self.classes),
            "images": _without_nan(self.images),
        }


def evaluate_network(
    network: Segmenter, rows: Sequence[LabelledImage], evaluate: EvaluateSpec, *, seed: int = 0, tune: bool = False
) -> EvaluationReport:
    """Predict image after image, as production does, and measure everything.

    Args:
        network: a `Segmenter`, ready to predict.
        rows: the split; read by index.
        evaluate: how the model predicts and is scored; images are predicted one at a time whatever its `batch_size`.
        seed: of the resampling behind intervals.
        tune: choose the scores per class on these images, and score with those.
    """
    costs: runtime.Values = {}
    if len(rows):
        first = _input(next(iter(predict(network, [rows[0]], evaluate))), evaluate)  # warms up
        rates_of(network, Workers.here())
    with runtime.peak_memory(costs):
        found = EvaluationAccumulator(network.classes, evaluate)
        cameras: dict[str, str] = {}
        seen = _noting_cameras(rows, cameras)
        for sample, image, prediction in predict(network, seen, evaluate.model_copy(update={"batch_size": 1})):
            found.add(sample, image, prediction, camera=cameras[sample.image_id])
    costs |= {f"decoding/{name}": rate for name, rate in rates_of(network, Workers.here()).items()}
    if tune:
        costs |= {f"post/min_score/{label}": score for label, score in found.tune().items()}
    result = found.result(seed=seed)
    if len(rows):
        costs |= runtime.latency([p.seconds for p in result.predictions])
        whole = _Whole(network, evaluate)
        costs |= runtime.throughput(whole, [first[0]], [first[1]])
        costs |= runtime.flops(whole, *first)
    return replace(result, metrics=result.metrics | costs)


def costs_of(folder: Path, rows: Sequence[LabelledImage], evaluate: EvaluateSpec) -> runtime.Values:
    """Bytes and latency of a model that is being trained; no generator of numbers is moved by it.

    Args:
        folder: of the model.
        rows: images to predict one by one; the first `_TIMED` of them.
        evaluate: how it predicts.
    """
    device = Workers.here().device
    evaluate = evaluate.model_copy(update={"batch_size": 1})
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network = checkpoint.load(folder, trusted=True, device=device)
        first = [rows[k] for k in range(min(len(rows), _TIMED))]
        for _ in predict(network, first[:1], evaluate):
            pass  # warms up
        seconds = [prediction.seconds for _, _, prediction in predict(network, first, evaluate)]
    return runtime.bytes_on_disk(folder) | runtime.latency(seconds)


def filled_evaluator(
    folder: Path, rows: Sequence[LabelledImage], metrics: Sequence[str], *, trusted: bool = False
) -> Evaluator:
    """What an evaluator saw of the predictions of a model, which is scored as it was trained to be.

    Args:
        folder: of the model.
        rows: the images.
        metrics: their names.
        trusted: see `checkpoint.load`.
    """
    evaluate = checkpoint.describe(folder).evaluate
    network = checkpoint.load(folder, trusted=trusted, device=Workers.here().device)
    evaluator = evaluator_of(network.classes, evaluate, metrics)
    for sample, _, prediction in predict(network, rows, evaluate):
        evaluator.add(sample, prediction)
    return evaluator


@dataclass(frozen=True)
class _Whole:
    """A model with its tiles, views and post-processing: they cost time too."""

    network: Segmenter
    evaluate: EvaluateSpec

    def predict(self, images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """As `Segmenter.predict`."""
        return segment(self.network, images, prompts, self.evaluate)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the network."""
        return self.network.parameters()


class EvaluationAccumulator:
    """Looks at images one after the other, whoever predicted them.

    Args:
        classes: the class names.
        evaluate: the settings of scoring.
    """

    def __init__(self, classes: Sequence[str], evaluate: EvaluateSpec, metrics: Sequence[str] | None = None) -> None:
        self.evaluator: Evaluator = evaluator_of(classes, evaluate, metrics)
        self._settings = evaluate, metrics
        self._tuned: dict[str, float] = {}
        self._samples: list[Sample] = []
        self._images: list[JsonDict] = []
        self._predictions: list[Prediction] = []

    def add(self, sample: Sample, image_HWC: ImageHWC | None, prediction: Prediction, *, camera: str = "") -> None:
        """One image; its pixels tell the lighting, its metadata the camera."""
        self.evaluator.add(sample, prediction)
        self._samples.append(sample)
        self._predictions.append(prediction)
        self._images.append(
            {"image_id": sample.image_id, "seconds": prediction.seconds, "facets": facets(sample, image_HWC, camera)}
        )

    def tune(self) -> dict[str, float]:
        """Choose the scores per class on what was looked at, and look again with them."""
        evaluate, metrics = self._settings
        classes = self.evaluator.classes
        self._tuned = tuned(self._samples, self._predictions, classes, usual=evaluate.min_score)
        self.evaluator = evaluator_of(classes, evaluate.with_min_scores(self._tuned), metrics)
        for sample, prediction in zip(self._samples, self._predictions, strict=True):
            self.evaluator.add(sample, prediction)
        return self._tuned

    def result(self, *, seed: int = 0) -> EvaluationReport:
        """Metrics, consistency and what each image contributed."""
        chosen = [m.name for m in self.evaluator.metrics]
        for name in (n for n in shown_in("images") if n in chosen):
            for image, value in zip(self._images, per_image(self.evaluator, name), strict=True):
                image[name] = float(value)
        groups = grouping([image["facets"] for image in self._images])
        details = [
            consistency(self.evaluator, groups, metric=name, seed=seed).to_json()
            for name in shown_in("intervals")
            if name in chosen
        ]
        by_class: dict[str, dict[str, object]] = {label: {} for label in self.evaluator.classes}
        for name in (n for n in shown_in("spread") if n in chosen):
            for part in consistency(self.evaluator, {}, metric=name, resamples=0).of("class"):
                if part.spread is not None:
                    by_class[part.name][name] = asdict(part.spread)
        scores = [i.score for p in self._predictions for i in p.instances]
        found = {"predicted/objects": float(len(scores)), "predicted/top_score": max(scores, default=0.0)}
        metrics = self.evaluator.values() | found
        return EvaluationReport(metrics, details, self._images, self._predictions, self._tuned, by_class)


def facets(sample: Sample, image_HWC: ImageHWC | None, camera: str = "") -> dict[str, str]:
    """What groups an image may belong to: its group and source, its size, lighting from the pixels, and camera."""
    pixels = sample.size_hw[0] * sample.size_hw[1]
    size = next((name for name, most in _LARGEST.items() if pixels < most), "huge, >= 4 MP")
    found = {"group": sample.group, "source": sample.source, "size": size, "camera": camera}
    return found if image_HWC is None else found | {"lighting": lighting(image_HWC)}


def lighting(image_HWC: ImageHWC) -> str:
    """dark, normal or bright, by the mean brightness."""
    luma = float((image_HWC.mean(axis=(0, 1)) @ np.array([0.299, 0.587, 0.114])) / 255)
    return "dark" if luma < DARK else "bright" if luma > BRIGHT else "normal"


def grouping(images: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The facets that divide the images: at least two groups, with two images each on average."""
    kinds = images[0] if images else {}
    columns = {kind: [image.get(kind, "") for image in images] for kind in kinds}
    return {kind: names for kind, names in columns.items() if are_groups(names)}


def _noting_cameras(rows: Iterable[LabelledImage], cameras: dict[str, str]) -> Iterator[LabelledImage]:
    """The rows, while the camera of each image is written down."""
    for sample, image_bytes in rows:
        cameras[sample.image_id] = camera_of(image_bytes)
        yield sample, image_bytes


def _input(found: tuple[Sample, ImageHWC, Prediction], evaluate: EvaluateSpec) -> tuple[ImageHWC, Prompt]:
    sample, image, _ = found
    return image, box_prompt(sample) if evaluate.prompts == "box" else Prompt()


def _without_nan(value: object) -> object:
    """The same JSON values with null for NaN."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
