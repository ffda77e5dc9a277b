"""The page of all trials beside each other: what writing it costs, what it weighs, and how soon it can be used.

The sweep is made up, but recorded as a driver records one: 64 trials with predictions of 200 drawn images, the truth
with moved, thinned, lost and invented parts. From there on everything is the code of `segdist compare --html`.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import cv2
import numpy as np

from benchmarks._browser import opened
from segdist.commands.compare import board_of
from segdist.commands.side_by_side import write_images
from segdist.core import masks
from segdist.core.records import LabelledImage, Prediction
from segdist.core.spec import SweepSpec
from segdist.core.storage import cache_dir
from segdist.datasets.build import on_all_cores
from segdist.datasets.ingest import find_or_build
from segdist.datasets.shards import Dataset
from segdist.engine.evaluation import EvaluationReport
from segdist.tracking import Measured, Tracker

TRIALS, IMAGES, SIZE = 64, 200, 512
OPENS, HEAVIEST = 2.0, 30e6
"""The targets: seconds until the page can be used and its first images are drawn; bytes that are read for that."""
RUNS = 3


def main() -> None:
    """Print one line a measure."""
    with TemporaryDirectory(prefix="segdist-bench-") as folder, patch.dict("os.environ", SEGDIST_CACHE=f"{folder}/c"):
        tracker = recorded(Path(folder), trials=TRIALS, images=IMAGES, size=SIZE)
        board = board_of("page", storage=folder)
        start = time.perf_counter()
        written = write_images(tracker, board, f"{folder}/pages/side_by_side")
        seconds = time.perf_counter() - start
        assert written is not None
        print(f"| {TRIALS} trials x {IMAGES} images of {SIZE} pixels | | target | |\n|---|---|---|---|")
        print(f"| written in | {seconds:.1f} s | | |")
        _print("index.html and scores.js", written.page_bytes / 1e6, "MB", HEAVIEST / 1e6)
        print(f"| all files | {written.total_bytes / 1e6:.2f} MB | | |")
        times = [_opened(written.uri, Path(folder) / "profile") for _ in range(RUNS)]
        for what, values in zip(
            ("can be used after", "first images drawn after"), zip(*times, strict=True), strict=True
        ):
            _print(what, sorted(values)[RUNS // 2], "s", OPENS)


def recorded(folder: Path, *, trials: int, images: int, size: int) -> Tracker:
    """A finished sweep `page` in a storage folder, with what its evaluation left.

    Args:
        folder: the storage.
        trials: how many; the later, the worse.
        images: of the validation split.
        size: their side in pixels.
    """
    spec = SweepSpec.model_validate(
        {
            "name": "page",
            "question": "Which of many trials sees what the others miss?",
            "storage": str(folder),
            "data": {
                "sources": [{"format": "synthetic", "scene": ["rooms", "cracks"], "size": size, "count": images + 4}],
                "split": {"val": images / (images + 4), "test": 0.0, "seed": 0},
            },
            "model": {"family": "unet_cbam"},
            "space": {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "train.augment": ["light", "none"]},
        }
    )
    dataset = find_or_build(spec, on_all_cores)
    tracker = Tracker.for_sweep(spec)
    parent = tracker.start_sweep(
        spec.name,
        spec.sweep_fingerprint,
        spec_text=spec.model_dump_json(),
        spec_file=str(folder / "page.yaml"),
        tags={"segdist.kind": "sweep", "segdist.question": spec.question},
        params={},
        dataset=dataset.manifest,
    )
    rows = dataset.reader("val", cache_dir())
    found = _predictions([rows[k] for k in range(len(rows))], trials)
    for number, predictions in enumerate(found):
        _trial(tracker, parent, spec, dataset, number, predictions, score=0.9 - 0.5 * number / trials)
    tracker.end(parent)
    return tracker


def _trial(
    tracker: Tracker,
    parent: str,
    spec: SweepSpec,
    dataset: Dataset,
    number: int,
    predictions: Sequence[Prediction],
    *,
    score: float,
) -> None:
    rng = np.random.default_rng(number)
    values = {"train.lr": float(10 ** rng.uniform(-4, -2))} if number else {}
    run = tracker.start_trial(
        parent,
        f"trial-{number}",
        number=number,
        params={**spec.run.model_dump(mode="json"), **values},
        tags={"segdist.baseline": str(number == 0)},
    )
    tracker.log_epochs(run, [Measured(1, {"val/iou": score}, 1.0, 1.8e9)])
    rows = dataset.reader("val", cache_dir())
    with TemporaryDirectory() as scratch:
        EvaluationReport({}, predictions=list(predictions)).write(Path(scratch), "val", rows)
        tracker.log_files(run, Path(scratch), "evaluation")
    described = {"classes": list(dataset.manifest.classes), "evaluate": spec.evaluate.model_dump(mode="json")}
    tracker.log_json(run, described, "model/model.json")
    tracker.end(run)


def _predictions(rows: Sequence[LabelledImage], trials: int) -> list[list[Prediction]]:
    """Of each trial what it finds in each image: every object moved, with a ragged edge, now and then not at all."""
    rng = np.random.default_rng(0)
    height, width = rows[0][0].size_hw
    coarse = rng.normal(0, 1, (8, height // 12, width // 12)).astype(np.float32)
    noise = [cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) for field in coarse]
    found: list[list[Prediction]] = [[] for _ in range(trials)]
    for sample, _ in rows:
        known = [(i, masks.decode(i.mask).astype(np.float32)) for i in sample.instances if i.mask is not None]
        soft = [(i, cv2.GaussianBlur(mask_HW, (0, 0), 2.5)) for i, mask_HW in known]
        for number, predictions in enumerate(found):
            badness = number / trials
            edge_HW = 0.5 + (0.12 + 0.2 * badness) * noise[rng.integers(len(noise))]
            instances = []
            for instance, soft_HW in soft:
                if rng.random() > 0.15 * badness:
                    rle = masks.encode(np.roll(soft_HW > edge_HW, rng.integers(-3, 4, 2), axis=(0, 1)))
                    instances.append(replace(instance, mask=rle, box_xyxy=rle.box_xyxy, score=0.9))
            predictions.append(Prediction(sample.image_id, tuple(instances)))
    return found


def _opened(uri: str, profile: Path) -> tuple[float, float]:
    """Seconds from asking for the page until its controls work, and until the images in view are drawn."""
    with opened(f"file://{uri}", profile, window_wh=(1600, 1000)) as page:
        found = json.loads(
            page.wait_for("document.body?.dataset.drawn && JSON.stringify(document.body.dataset)", seconds=60)
        )
        return int(found["ready"]) / 1000, int(found["drawn"]) / 1000


def _print(what: str, value: float, unit: str, target: float) -> None:
    print(f"| {what} | {value:.2f} {unit} | < {target:g} {unit} | {'met' if value < target else 'not met'} |")
