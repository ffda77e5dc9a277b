"""A sweep as the driver would record it, with invented numbers: what the report is tested and looked at with."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segdist.core import masks, panels
from segdist.core.records import Instance, Prediction, Sample
from segdist.core.spec import EvaluateSpec, SweepSpec
from segdist.datasets.shards import Manifest, SplitCounts
from segdist.engine.evaluation import EvaluationAccumulator
from segdist.searching.cost import Cost, Held
from segdist.tracking import Measured, Tracker

CLASSES = ("wall crack", "drywall seam", "<b>roof & trim</b>")
SPACE = {
    "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "train.weight_decay": {"low": 0.0, "high": 0.1},
    "train.adapter.rank": [4, 8, 16],
    "model.family": ["sam", "unet_cbam"],
}
EPOCHS = 8


def fill(tracker: Tracker, storage: Path, *, trials: int = 10) -> str:
    """Record a sweep of `trials` trials, of which the fourth failed and the second half stopped early."""
    spec = SweepSpec.model_validate(
        {
            "name": "quickstart",
            "question": "Where are the cracks, seams and <script>alert('roofs')</script>?",
            "storage": str(storage),
            "data": {"sources": [{"format": "synthetic"}], "boxes_only": ["train"]},
            "model": {"family": "sam"},
            "train": {"epochs": EPOCHS},
            "space": SPACE,
        }
    )
    file = storage / "quickstart.yaml"
    file.write_text("#!/usr/bin/env -S segdist run\nname: quickstart\nsearch: {trials: 10}  # </pre><b>\n", "utf-8")
    parent = tracker.start_sweep(
        spec.name,
        spec.sweep_fingerprint,
        spec_text=spec.model_dump_json(),
        spec_file=str(file),
        tags={"segdist.kind": "sweep", "segdist.question": spec.question},
        params={"search.trials": trials},
        dataset=_manifest("dataset"),
    )
    labels = _manifest("labels").model_dump(mode="json", exclude={"shards"})
    policies = [{"policy": {"label.prompt": strategy}, "labels": labels} for strategy in ("box", "<skeleton>")]
    tracker.log_json(parent, {"labels": labels, "policies": policies}, "summary.json")
    scores = [_trial(tracker, parent, spec, number, trials, storage) for number in range(trials)]
    best = int(np.nanargmax(scores))
    winner = next(t for t in tracker.trials(parent) if t.number == best)
    tracker.log_metrics(winner.run_id, {"test/iou": 0.71, "test/iou/wall crack": 0.66, "test/dice": 0.83}, step=0)
    _pictures(tracker, winner.run_id, "pictures_test", quality=0.9, storage=storage)
    _evaluation(tracker, winner.run_id, storage)
    tracker.log_json(parent, {"train.lr": 0.7, "train.weight_decay": 0.2, "model.family": 0.1}, "importance.json")
    cost = Cost(Held(cpu_seconds=1234.4, gpu_seconds=616.8), Held(cpu_seconds=300, gpu_seconds=154.2))
    tracker.log_metrics(parent, cost.metrics, step=0)
    tracker.end(parent)
    return parent


def _trial(tracker: Tracker, parent: str, spec: SweepSpec, number: int, trials: int, storage: Path) -> float:
    rng = np.random.default_rng(number)
    values: dict[str, Any] = {
        "train.lr": float(10 ** rng.uniform(-4, -2)),
        "train.weight_decay": float(rng.uniform(0, 0.1)),
        "train.adapter.rank": int(rng.choice([4, 8, 16])),
        "model.family": str(rng.choice(["sam", "unet_cbam"])),
    }
    params = {**spec.run.model_dump(mode="json"), **({} if number == 0 else values)}
    tags = {"segdist.baseline": str(number == 0)}
    run = tracker.start_trial(parent, f"trial-{number}", number=number, params=params, tags=tags)
    if number == 3:
        tracker.end(run, "FAILED", reason="CUDA out of memory <at step 3>")
        return math.nan
    top = 0.55 if number == 0 else 0.78 - 0.25 * abs(math.log10(values["train.lr"]) + 3)
    epochs = EPOCHS if number < trials / 2 else int(rng.integers(2, EPOCHS + 1))
    measured = []
    for epoch in range(1, epochs + 1):
        iou = top * (1 - math.exp(-epoch / 2)) + float(rng.normal(0, 0.01))
        per_class = {f"val/iou/{name}": max(iou - 0.1 * k, 0) for k, name in enumerate(CLASSES)}
        loss = {"train/loss": 1.4 * math.exp(-epoch * top / 2)}
        metrics = {"val/iou": iou, "val/dice": iou + 0.1, **per_class, **loss}
        measured.append(Measured(epoch, metrics, 3.2, 1.8e9 + epoch))
    tracker.log_epochs(run, measured)
    _pictures(tracker, run, "pictures", quality=top, storage=storage)
    costs = {"runtime/latency_p50_ms": 8.0 + 3 * number, "model/bytes": 2e6 * (1 + number % 4), "val/mask_ap": top / 2}
    tracker.log_metrics(run, costs, step=epochs)
    tracker.end(run)
    return top


def _pictures(tracker: Tracker, run_id: str, artifact_path: str, *, quality: float, storage: Path) -> None:
    folder = storage / "scratch" / run_id / artifact_path
    folder.mkdir(parents=True)
    for index in range(4):
        (folder / f"{index:03d}.jpg").write_bytes(panels.encode_jpeg(_panel(index, quality)))
    tracker.log_files(run_id, folder, artifact_path)


def _evaluation(tracker: Tracker, run_id: str, storage: Path) -> None:
    """What looking at the winner leaves: consistency by group, and its ranked pictures."""
    accumulator = EvaluationAccumulator(CLASSES, EvaluateSpec(), ["iou", "boundary_iou"])
    rows: list[tuple[Sample, bytes]] = []
    for seed in range(12):
        image, sample, prediction = example(seed, 0.3 + 0.05 * seed)
        room = "bath <room>" if seed % 3 else "kitchen"
        rows.append((replace(sample, group=room), b""))
        accumulator.add(rows[-1][0], np.asarray(image // (1 + 3 * (seed % 2))), prediction)
    folder = storage / "scratch" / run_id / "evaluation"
    accumulator.result().write(folder, "val", rows)
    tracker.log_files(run_id, folder, "evaluation")
    folder = storage / "scratch" / run_id / "ranked"
    folder.mkdir(parents=True)
    index = []
    for number, rank in enumerate(("worst", "median", "best")):
        (folder / f"{rank}-{number}.jpg").write_bytes(panels.encode_jpeg(_panel(len(rank), 0.5)))
        for of, name in (("", ""), ("lighting", "dark"), ("group", "bath <room>")):
            one = {"file": f"{rank}-{number}.jpg", "rank": rank, "of": of, "name": name, "value": 0.2 + 0.3 * number}
            index.append({**one, "image_id": f"rooms/<{number}>.jpg"})
    (folder / "index.json").write_text(json.dumps(index), "utf-8")
    tracker.log_files(run_id, folder, "pictures_ranked")


def _panel(seed: int, quality: float) -> panels.ImageHWC:
    image, sample, prediction = example(seed, quality)
    return panels.panel(image, sample, prediction, classes=CLASSES)


def example(seed: int, quality: float) -> tuple[panels.ImageHWC, Sample, Prediction]:
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:96, :128]
    image = np.clip(170 + 40 * np.sin(xs / 30)[..., None] + rng.normal(0, 8, (96, 128, 3)), 0, 255).astype(np.uint8)
    middle = 48 + 20 * np.sin(xs / 18 + seed)
    crack, roof = np.abs(ys - middle) < 3, ys > 80
    image[crack] //= 3
    noisy = crack & (rng.random((96, 128)) < quality)
    truth = tuple(_instance(label, mask) for label, mask in zip(CLASSES[::2], (crack, roof), strict=True))
    found = tuple(_instance(label, mask) for label, mask in zip(CLASSES[::2], (noisy, roof), strict=True))
    sample = Sample(f"{seed}", "", (96, 128), truth)
    return image, sample, Prediction(f"{seed}", found)


def _instance(label: str, mask_HW: masks.Mask) -> Instance:
    rle = masks.encode(mask_HW)
    return Instance(label, rle, rle.box_xyxy)


def _manifest(kind: Any) -> Manifest:
    means = {"objects": 120, "iou": 0.81, "boundary_iou": 0.77, "box_fill_iou": 0.34, "oracle_iou": 0.83}
    verdicts = {name: {"labelled": 160, "review": k, "rejected": k // 2} for k, name in enumerate(CLASSES)}
    scores = {
        "calibration_error": 0.056,
        "score_correlation": 0.61,
        "hit_calibration_error": 0.1,
        "brier": 0.11,
        "score_error": 0.08,
    }
    per_class = {name: {**means, "iou": 0.85 - 0.05 * k} for k, name in enumerate(CLASSES)}
    return Manifest(
        kind=kind,
        classes=CLASSES,
        splits={"train": _counts(160), "val": _counts(40), "test": _counts(40)},
        shards=("0.parquet",),
        findings={"skipped": {"image-unreadable": 1}, "repaired": {"box-outside": 12}},
        content_hash="5f1d0c9e8b7a6435",
        details={
            "labelled": 480,
            "review": 3,
            "rejected": 1,
            "kept": 0,
            "verdicts": verdicts,
            "quality": {**means, **scores, "per_class": per_class},
        },
    )


def _counts(images: int) -> SplitCounts:
    per_class = {name: images * (3 - k) for k, name in enumerate(CLASSES)}
    return SplitCounts(
        images=images, instances=6 * images, masks=6 * images, empty_images=images // 20, per_class=per_class
    )
