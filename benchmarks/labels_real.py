"""Labels of photographs from boxes alone, held to human masks: each teacher, and what `label.policy: auto` makes of it.

Half of the images of a data set, drawn at random by group, lends its human masks to `auto`, as a validation split does;
what is measured is the other half, of which nothing but the boxes was seen. Means over several such halves.

`python -m benchmarks labels_real` does all; `python -m benchmarks.labels_real --set potholes --images 20` a part. What
teachers said of an image is kept in `SEGDIST_LABELS_REAL` (`labels_real` by default), so that it can be stopped and go
on, and so that halves cost next to nothing.
"""

import argparse
import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segdist.core import registry
from segdist.core.plugins import Question
from segdist.core.records import LabelledImage
from segdist.core.spec import FILLED_BOX, LabelSpec, digest
from segdist.datasets.rows import without_masks
from segdist.labelling.boxes import has_size
from segdist.labelling.consensus import CandidateMask
from segdist.labelling.election import Poll
from segdist.labelling.quality import summarise
from segdist.pipeline.label_rows import LabelJob, label_samples
from segdist.pipeline.panel import Panel
from segdist.reading.examples import decode_image

DATA = Path("../shared/data")
HALVES = 6
"""Random halves of each set."""
SAM = {"family": "sam", "sam": {"weights": "mobile_sam_onnx", "fit_box": True, "average_boxes": True}}
PLAIN_SAM = {"family": "sam", "sam": {"weights": "mobile_sam_onnx"}}
OTSU, GRABCUT, THIN = ({"family": "classical", "classical": {"method": m}} for m in ("otsu", "grabcut", "thin"))
MASONRY = {"images": "crack_detection_224_images", "masks": "crack_detection_224_masks", "kind": "binary",
           "classes": {1: "crack"}, "components": True}  # fmt: skip
SETS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "masonry": ("png_masks", MASONRY, [THIN, OTSU, SAM, PLAIN_SAM]),
    "facades": ("coco", {}, [SAM, PLAIN_SAM, OTSU]),
    "potholes": ("coco", {}, [SAM, PLAIN_SAM, OTSU, GRABCUT]),
    "buildings": ("coco", {}, [SAM, PLAIN_SAM, OTSU, GRABCUT]),
}
"""Format, its options, and the teachers asked: those made for such objects, so that an hour is enough."""


Said = list[list[CandidateMask]]
"""Of each object with a mask of an image, what every teacher said."""


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table for each data set."""
    asked = _arguments(arguments)
    torch.set_num_threads(1)
    for name in SETS:
        if asked.set not in ("", name):
            continue
        if not (DATA / name).is_dir():
            print(f"{name}: not measured, for want of {DATA / name}")
            continue
        start = time.process_time()
        rows = _photographs(name, asked.images)
        said = {sample.image_id: of for sample, of in _said(name, rows, Path(asked.folder))}
        _print(name, [_quality(name, rows, said, seed) for seed in range(HALVES)], time.process_time() - start)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labels_real", description=__doc__)
    parser.add_argument("--set", default="", choices=["", *SETS])
    parser.add_argument("--images", type=int, default=0, help="of each set, drawn at random; 0 for all")
    parser.add_argument("--folder", default=os.environ.get("SEGDIST_LABELS_REAL", "labels_real"))
    return parser.parse_args(arguments)


def _photographs(name: str, images: int) -> list[LabelledImage]:
    """Those with human masks."""
    kind, options, _ = SETS[name]
    module = registry.load("formats", kind)
    source = module.Format(module.Options.model_validate({"path": str(DATA / name), **options}))
    rows = [(sample, source.image_bytes(sample)) for sample in source.read(lambda *_: None)]
    rows = [(s, content) for s, content in rows if content and any(i.mask and not i.is_crowd for i in s.instances)]
    order = np.random.default_rng(11).permutation(len(rows))[: images or None]
    return [rows[int(n)] for n in order]


def _policy(name: str) -> LabelSpec:
    first, *others = SETS[name][2]
    return LabelSpec.model_validate({"teacher": first, "teachers": others, "policy": "auto"})


def _said(name: str, rows: Sequence[LabelledImage], folder: Path) -> Iterator[tuple[Any, Said]]:
    """What all teachers say of every image, asked where it is not kept yet."""
    policy = _policy(name)
    panel = Panel(policy, _classes(rows))
    place = folder / f"{name}-{digest(policy.model_dump(mode='json'))}"
    place.mkdir(parents=True, exist_ok=True)
    for sample, content in rows:
        file = place / f"{digest(sample.image_id)}.pickle"
        if not file.exists():
            question = Question(without_masks(sample), _known(sample), decode_image(content, name=sample.image_id))
            written = file.with_suffix(".part")
            written.write_bytes(pickle.dumps(panel.candidates([question])[0]))
            written.replace(file)
        yield sample, pickle.loads(file.read_bytes())


def _known(sample: Any) -> list[int]:
    return [
        n for n, i in enumerate(sample.instances) if i.mask and not i.is_crowd and has_size(i.box_xyxy, sample.size_hw)
    ]


def _classes(rows: Sequence[LabelledImage]) -> tuple[str, ...]:
    return tuple(sorted({i.label for sample, _ in rows for i in sample.instances}))


class _Recorded:
    """Teachers that say again what they said."""

    def __init__(self, said: dict[str, Said]) -> None:
        self._said = said

    def candidates(self, questions: Sequence[Question]) -> list[Said]:
        """For each question and each of its indices."""
        return [self._said[question.sample.image_id] for question in questions]

    def take_halved(self) -> int:
        """Never."""
        return 0


def _quality(name: str, rows: Sequence[LabelledImage], said: dict[str, Said], seed: int) -> dict[str, Any]:
    """How good the labels of one half are, where the other lends its masks."""
    known, measured = _halves(rows, seed)
    poll = Poll()
    for sample, _ in known:
        shown = without_masks(sample)
        for index, of_one in zip(_known(sample), said[sample.image_id], strict=True):
            poll.add(shown.instances[index], of_one, sample.instances[index].mask)
    policy = _policy(name)
    choices = poll.choices(policy.teacher.name, floor=FILLED_BOX.name)
    job = LabelJob(policy, _classes(rows), ("train",), source="benchmark", choices=choices)
    hidden = [(replace(_measurable(sample), split="train"), content) for sample, content in measured]
    _, _, notes = label_samples(hidden, job, _Recorded(said))
    found: dict[str, Any] = summarise([notes])["quality"]
    return {**found, "choices": choices, "known": len(poll.content["known"])}


def _measurable(sample: Any) -> Any:
    """The sample without what has no human mask."""
    return replace(sample, instances=tuple(sample.instances[n] for n in _known(sample)))


def _halves(rows: Sequence[LabelledImage], seed: int) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Images that teach, and those that are measured. No group is in both."""
    groups = sorted({sample.group or sample.image_id for sample, _ in rows})
    order = np.random.default_rng(seed).permutation(len(groups))
    first = {groups[int(n)] for n in order[: len(groups) // 2]}
    of_first = [(sample.group or sample.image_id) in first for sample, _ in rows]
    return (
        [row for row, is_first in zip(rows, of_first, strict=True) if is_first],
        [row for row, is_first in zip(rows, of_first, strict=True) if not is_first],
    )


def _print(name: str, halves: Sequence[dict[str, Any]], seconds: float) -> None:
    """Means over the halves; of classes that all of them have."""
    objects, known = (np.mean([of[key] for of in halves]) for key in ("objects", "known"))
    print(f"{name}: {len(halves)} halves, {objects:.0f} objects measured, {known:.0f} lend masks, {seconds:.0f} CPU-s")
    teachers = sorted(halves[0]["strategies"])
    print(f"{'mean IoU':26}{'objects':>8}{'auto':>8}" + "".join(f"{teacher[-22:]:>24}" for teacher in teachers))
    common = set.intersection(*(set(of["per_class"]) for of in halves))
    for label in (*sorted(common), "all"):
        of_label = [of if label == "all" else of["per_class"][label] for of in halves]
        auto, box, count = (np.mean([of[key] for of in of_label]) for key in ("iou", "box_fill_iou", "objects"))
        each = "".join(f"{np.mean([of['strategies'][t]['iou'] for of in of_label]):24.3f}" for t in teachers)
        print(f"{label:26}{count:8.0f}{auto:8.3f}{each}{'  worse than the box' if auto < box else ''}")
    print("  auto of each half: " + ", ".join(format(of["iou"], ".3f") for of in halves))
    for label in sorted(common):
        chosen = [of["choices"][label].teacher for of in halves if label in of["choices"]]
        print(f"  {label}: {', '.join(f'{chosen.count(one)} x {one}' for one in dict.fromkeys(chosen))}")
    means = {
        key: np.mean([of[key] for of in halves]) for key in ("score_correlation", "calibration_error", "score_error")
    }
    print(
        f"  scores: correlation {means['score_correlation']:.2f} (target 0.5), calibration error "
        f"{means['calibration_error']:.3f} (target 0.1), mean distance {means['score_error']:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
