"""Drawn scenes: same seed same pixels, masks where the paint is, quick enough to draw on the fly."""

import time

import cv2
import numpy as np
import pytest

from segdist.core.masks import decode
from segdist.formats.synthetic import Format, Options, draw
from segdist.formats.synthetic.scenes import SCENES

LABELS = {
    "cracks": {"crack"},
    "seams": {"seam"},
    "rooms": {"wall", "ceiling", "floor", "trim"},
    "roofs": {"roof"},
}


@pytest.mark.parametrize("scene", SCENES)
def test_the_same_seed_draws_the_same_pixels_and_masks_and_another_seed_does_not(scene: str) -> None:
    image_a, truth_a = draw(scene, 3, 96)
    image_b, truth_b = draw(scene, 3, 96)
    assert np.array_equal(image_a, image_b)
    assert [label for label, _ in truth_a] == [label for label, _ in truth_b]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(truth_a, truth_b, strict=True))
    assert not np.array_equal(image_a, draw(scene, 4, 96)[0])


@pytest.mark.parametrize("scene", SCENES)
def test_masks_of_one_image_never_overlap_and_bear_the_labels_of_their_scene(scene: str) -> None:
    for seed in range(12):
        image_HWC, truth = draw(scene, seed, 128)
        assert image_HWC.shape == (128, 128, 3)
        assert image_HWC.dtype == np.uint8
        assert {label for label, _ in truth} <= LABELS[scene]
        assert np.sum([mask for _, mask in truth], axis=0).max() <= 1


def test_a_crack_is_darker_and_a_seam_brighter_than_its_surroundings() -> None:
    for scene, sign in (("cracks", -1), ("seams", 1)):
        contrasts = []
        for seed in range(15):
            image_HWC, truth = draw(scene, seed, 128)
            for _, mask in truth:
                ring = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & ~mask
                contrasts.append(float(image_HWC[mask].mean()) - float(image_HWC[ring].mean()))
        assert np.mean([sign * c > 8 for c in contrasts]) > 0.9


def test_cracks_and_seams_fill_little_of_their_box_so_that_a_box_is_no_label() -> None:
    for scene in ("cracks", "seams"):
        shares = []
        for seed in range(40):
            for _, mask in draw(scene, seed, 128)[1]:
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                shares.append(mask.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
        assert np.mean(shares) < 0.3


def test_a_scene_without_objects_keeps_its_clutter_and_has_no_truth() -> None:
    image_HWC, truth = draw("cracks", 0, 128, objects=False)
    assert truth == []
    assert image_HWC.std() > 3


@pytest.mark.parametrize("scene", SCENES)
def test_drawing_at_another_size_shows_the_same_kind_of_scene(scene: str) -> None:
    image_HWC, truth = draw(scene, 7, 256)
    assert image_HWC.shape == (256, 256, 3)
    assert truth


def test_drawing_takes_few_milliseconds_an_image() -> None:
    draw("cracks", 0, 128)
    start = time.process_time()
    for seed in range(20):
        draw(SCENES[seed % 4], seed, 128)
    assert (time.process_time() - start) / 20 < 0.05, "15 ms on an idle core"


def test_the_bytes_of_a_sample_hold_the_image_its_masks_were_drawn_with() -> None:
    made = Format(Options(scene="roofs", count=2, size=64, seed=5))
    for sample in made.read(lambda finding: pytest.fail(str(finding))):
        image = cv2.imdecode(np.frombuffer(made.image_bytes(sample), np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        assert image.shape[:2] == sample.size_hw
        seed, index = 5, int(sample.image_id.rsplit("-", 1)[1])
        drawn, truth = draw("roofs", (seed, SCENES.index("roofs"), index), 64)
        assert np.array_equal(image, drawn)
        for instance, (label, mask) in zip(sample.instances, truth, strict=True):
            assert instance.label == label
            assert instance.mask is not None
            assert np.array_equal(decode(instance.mask), mask)


def test_scenes_take_turns_and_the_share_of_empty_images_is_as_asked() -> None:
    samples = list(Format(Options(scene=("cracks", "seams"), count=60, size=48, empty_share=0.5)).read(print))
    assert [s.image_id.split("-")[0] for s in samples[:4]] == ["cracks", "seams", "cracks", "seams"]
    assert 15 <= sum(not s.instances for s in samples) <= 45
    assert len({s.image_id for s in samples}) == 60


def test_the_signature_changes_with_the_options() -> None:
    assert Format(Options(seed=1)).signature() == Format(Options(seed=1)).signature()
    assert Format(Options(seed=1)).signature() != Format(Options(seed=2)).signature()
