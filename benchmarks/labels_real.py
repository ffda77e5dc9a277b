"""Labels of photographs from boxes alone, held to human masks: each teacher, and what `label.policy: auto` makes of it.

Half of the images of a data set, by group, lends its human masks to `auto`, as a validation split does; what is
measured is the other half, of which nothing but the boxes was seen.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segdist.core import registry
from segdist.core.plugins import Question
from segdist.core.records import LabelledImage
from segdist.core.spec import LabelSpec
from segdist.datasets.rows import without_masks
from segdist.labelling.boxes import has_size
from segdist.labelling.election import Poll
from segdist.labelling.quality import summarise
from segdist.pipeline.label_rows import LabelJob, label_samples
from segdist.pipeline.panel import Panel
from segdist.reading.examples import decode_image

DATA = Path("../shared/data")
IMAGES = int(os.environ.get("SEGDIST_BENCH_IMAGES", "24"))
"""Of each data set, drawn at random; 0 for all."""
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


def main(names: Sequence[str] = tuple(SETS)) -> None:
    """Print a table for each data set."""
    torch.set_num_threads(1)
    for name in names:
        if not (DATA / name).is_dir():
            print(f"{name}: not measured, for want of {DATA / name}")
            continue
        start = time.process_time()
        _print(name, _quality(name), seconds=time.process_time() - start)


def _quality(name: str) -> dict[str, Any]:
    known, asked = _halves(name)
    classes = tuple(sorted({i.label for sample, _ in (*known, *asked) for i in sample.instances}))
    first, *others = SETS[name][2]
    spec = LabelSpec.model_validate({"teacher": first, "teachers": others, "policy": "auto"})
    panel = Panel(spec, classes)
    poll = Poll()
    for sample, content in known:
        shown = without_masks(sample)
        indices = [n for n, i in enumerate(sample.instances) if i.mask and has_size(i.box_xyxy, sample.size_hw)]
        question = Question(shown, indices, decode_image(content, name=sample.image_id))
        for index, said in zip(indices, panel.candidates([question])[0], strict=True):
            poll.add(shown.instances[index], said, sample.instances[index].mask)
    choices = poll.choices()
    job = LabelJob(spec, classes, ("train",), source="benchmark", choices=choices)
    _, _, notes = label_samples([(replace(sample, split="train"), content) for sample, content in asked], job, panel)
    found: dict[str, Any] = summarise([notes])["quality"]
    return {**found, "choices": choices, "known": len(poll.content["known"])}


def _halves(name: str) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Images with human masks: those that teach, and those that are measured. No group is in both."""
    kind, options, _ = SETS[name]
    module = registry.load("formats", kind)
    source = module.Format(module.Options.model_validate({"path": str(DATA / name), **options}))
    rows = [(sample, source.image_bytes(sample)) for sample in source.read(lambda *_: None)]
    rows = [(s, content) for s, content in rows if content and any(i.mask and not i.is_crowd for i in s.instances)]
    order = np.random.default_rng(11).permutation(len(rows))[: IMAGES or None]
    drawn = [rows[int(n)] for n in order]
    groups = list(dict.fromkeys(sample.group or sample.image_id for sample, _ in drawn))
    first = set(groups[: len(groups) // 2])
    of_first = [(sample.group or sample.image_id) in first for sample, _ in drawn]
    return (
        [row for row, is_first in zip(drawn, of_first, strict=True) if is_first],
        [row for row, is_first in zip(drawn, of_first, strict=True) if not is_first],
    )


def _print(name: str, quality: dict[str, Any], *, seconds: float) -> None:
    print(f"{name}: {quality['objects']} objects measured, {quality['known']} lent their masks, {seconds:.0f} CPU-s")
    teachers = sorted(quality["strategies"])
    header = "".join(f"{teacher[-22:]:>24}" for teacher in teachers)
    print(f"{'mean IoU':26}{'objects':>8}{'auto':>8}{header}")
    for label, of in [*quality["per_class"].items(), ("all", quality)]:
        each = "".join(f"{of['strategies'][t]['iou']:24.3f}" for t in teachers)
        worse = "  worse than the box" if of["iou"] < of["box_fill_iou"] else ""
        print(f"{label:26}{of['objects']:8}{of['iou']:8.3f}{each}{worse}")
    for label, choice in quality["choices"].items():
        print(f"  {label}: {choice.teacher}, by {choice.by} of {choice.objects}")
    print(
        f"  scores: correlation {quality['score_correlation']:.2f} (target 0.5), calibration error "
        f"{quality['calibration_error']:.3f} (target 0.1), mean distance {quality['score_error']:.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
