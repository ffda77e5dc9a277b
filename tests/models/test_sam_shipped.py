"""The weights that come with segdist: what they promise on scenes they have never seen."""

import subprocess

import numpy as np
import pytest
import torch

from segdist.core import masks
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prediction, Prompt, Sample
from segdist.formats.synthetic.scenes import SCENES, draw
from segdist.metrics import box_fill, prompted_iou
from segdist.models.sam import SHIPPED_FILE, Options
from segdist.models.sam.network import build

SEED = 987_654_321
"""Not the recipe's: these pictures are held out."""
Scored = dict[str, tuple[float, float]]


def scenes(scene: str, count: int) -> list[tuple[Sample, ImageHWC]]:
    drawn = []
    for index in range(count):
        image_HWC, truth = draw(scene, (SEED, index), 128)
        rles = [(label, masks.encode(mask_HW)) for label, mask_HW in truth]
        instances = tuple(Instance(label, rle, rle.box_xyxy) for label, rle in rles)
        drawn.append((Sample(f"{scene}-{index}", "", (128, 128), instances), image_HWC))
    return drawn


@pytest.fixture(scope="module")
def scored() -> Scored:
    """For each kind of scene the mean IoU of the masks made from true boxes, and of the filled boxes."""
    network = build(Options(), ("any",)).eval()
    values = {}
    for scene in SCENES:
        held_out = scenes(scene, 30)
        samples = [sample for sample, _ in held_out]
        prompts = [Prompt(tuple(i.box_xyxy for i in s.instances), tuple(i.label for i in s.instances)) for s in samples]
        with torch.inference_mode():
            found = network.predict([image for _, image in held_out], prompts)
        predictions = [Prediction(s.image_id, f) for s, f in zip(samples, found, strict=True)]
        values[scene] = (
            prompted_iou(samples, predictions)["prompted_iou"],
            prompted_iou(samples, box_fill(samples))["prompted_iou"],
        )
    return values


def test_masks_from_boxes_agree_with_the_truth_over_all_scenes(scored: Scored) -> None:
    assert np.mean([ours for ours, _ in scored.values()]) >= 0.75


@pytest.mark.parametrize("scene", SCENES)
def test_masks_beat_the_filled_box_on_every_kind_of_scene(scored: Scored, scene: str) -> None:
    ours, filled = scored[scene]
    assert ours > filled + (0.3 if scene in ("cracks", "seams") else 0)


def test_the_file_is_small_enough_to_ship() -> None:
    assert SHIPPED_FILE.stat().st_size < 4_000_000


def test_the_file_is_not_ignored_by_git() -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", str(SHIPPED_FILE)], cwd=SHIPPED_FILE.parent, check=False)
    assert ignored.returncode == 1
