"""Augmentations keep image, masks and boxes together."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdist.augment import FOUND, RECIPES, Recipes, augmentations
from segdist.augment.geometry import tight_boxes
from segdist.core.errors import SpecError
from segdist.core.masks import encode
from segdist.core.plugins import Example
from segdist.core.records import Instance, Sample


def example_with_bright_object() -> Example:
    """A dark picture whose one thin object is white, so that the picture itself tells where the mask must be."""
    canvas = np.zeros((96, 128), np.uint8)
    cv2.polylines(canvas, [np.array([(20, 15), (50, 40), (70, 80)], np.int32)], isClosed=False, color=1, thickness=5)
    mask_HW = canvas.astype(np.bool_)
    return Example(
        image_id="a",
        image_HWC=np.where(mask_HW[..., None], 220, 20).astype(np.uint8).repeat(3, axis=2),
        labels=np.array([0]),
        masks_NHW=mask_HW[None],
        boxes_xyxy=np.array([encode(mask_HW).box_xyxy], np.float32),
        scores=np.ones(1, np.float32),
        ignore_HW=np.zeros((96, 128), np.bool_),
    )


@pytest.mark.parametrize("name", sorted(FOUND))
def test_image_masks_and_boxes_stay_together(name: str) -> None:
    (function,) = augmentations([name])
    for seed in range(12):
        example = function(example_with_bright_object(), np.random.default_rng(seed))
        assert example.image_HWC.dtype == np.uint8
        assert max(example.image_HWC.shape) <= 128
        assert example.masks_NHW.shape[1:] == example.image_HWC.shape[:2] == example.ignore_HW.shape
        assert len(example.masks_NHW) == len(example.labels) == len(example.scores) == len(example.boxes_xyxy) == 1
        grey = example.image_HWC.mean(axis=2)
        bright = grey > (grey.min() + grey.max()) / 2
        common, whole = (bright & example.masks_NHW[0]).sum(), (bright | example.masks_NHW[0]).sum()
        assert common / whole > 0.7, seed
        tight = np.array(encode(example.masks_NHW[0]).box_xyxy)
        assert np.abs(tight - example.boxes_xyxy[0]).max() <= 3, seed


@pytest.mark.parametrize("name", sorted(FOUND))
def test_same_seed_same_picture_and_an_image_without_objects_is_no_special_case(name: str) -> None:
    (function,) = augmentations([name])
    bare = Example(
        "a",
        example_with_bright_object().image_HWC,
        np.zeros(0, np.int64),
        np.zeros((0, 96, 128), np.bool_),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros((96, 128), np.bool_),
    )
    first, second = (function(bare, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first.image_HWC, second.image_HWC)
    assert first.masks_NHW.shape == (0, *first.image_HWC.shape[:2])


def test_crop_keeps_a_thin_structure_in_one_piece() -> None:
    canvas = np.zeros((96, 128), np.uint8)
    cv2.line(canvas, (0, 10), (127, 90), 1, 1)
    whole = example_with_bright_object()
    thin = Example(
        "a",
        whole.image_HWC,
        whole.labels,
        canvas.astype(np.bool_)[None],
        whole.boxes_xyxy,
        whole.scores,
        whole.ignore_HW,
    )
    (crop,) = augmentations(["crop"])
    for seed in range(10):
        mask_HW = crop(thin, np.random.default_rng(seed)).masks_NHW[0]
        assert cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)[0] == 2


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"`brightnes`.*Did you mean `brightness`"):
        augmentations(["flip", "brightnes"])


def test_reading_the_names_does_not_import_torch() -> None:
    check = "import sys, segdist.augment, segdist.reading.examples; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def drawn(seed: int, *, height: int = 40, width: int = 56) -> Example:
    """Up to four blobs and lines with tight boxes; a crowd in a corner. The red channel tells where objects are."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(int(rng.integers(0, 5))):
        canvas = np.zeros((height, width), np.uint8)
        ends = rng.integers(0, (width, height), (2, 2)).tolist()
        if rng.random() < 0.5:
            cv2.line(canvas, ends[0], ends[1], 1, int(rng.integers(1, 4)))
        else:
            cv2.circle(canvas, ends[0], int(rng.integers(2, 7)), 1, -1)
        masks.append(canvas.astype(np.bool_))
    stack_NHW = np.stack(masks) if masks else np.zeros((0, height, width), np.bool_)
    image_HWC = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
    image_HWC[..., 0] = np.where(stack_NHW.any(axis=0), 250, 0)
    ignore_HW = np.zeros((height, width), np.bool_)
    ignore_HW[:6, :8] = True
    count = len(stack_NHW)
    boxes_xyxy = np.array([encode(m).box_xyxy for m in masks], np.float32).reshape(-1, 4)
    scores = rng.uniform(0.5, 1, count).astype(np.float32)
    labels = rng.integers(0, 3, count)
    return Example("a", image_HWC, labels, stack_NHW, boxes_xyxy, scores, ignore_HW & ~stack_NHW.any(axis=0))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), donor=st.integers(0, 10**6))
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_keeps_boxes_tight_around_masks_and_counts_equal(name: str, seed: int, donor: int) -> None:
    example, rng = drawn(seed), np.random.default_rng(seed)
    for step in augmentations(name):
        example = step(example, rng, lambda: drawn(donor, height=48, width=44))
    size_hw = example.image_HWC.shape[:2]
    assert example.image_HWC.dtype == np.uint8
    assert example.masks_NHW.dtype == example.ignore_HW.dtype == np.bool_
    assert example.masks_NHW.shape[1:] == example.ignore_HW.shape == size_hw
    assert len(example.masks_NHW) == len(example.labels) == len(example.scores) == len(example.boxes_xyxy)
    for mask_HW, box_xyxy in zip(example.masks_NHW, example.boxes_xyxy, strict=True):
        assert mask_HW.any(), "an object of which nothing is left must be dropped"
        np.testing.assert_allclose(box_xyxy, encode(mask_HW).box_xyxy, atol=1)


@pytest.mark.parametrize("name", ["strong", "camera"])
def test_the_same_seed_makes_the_same_picture_whatever_was_made_before(name: str) -> None:
    made = []
    for warm_up in (0, 3):
        for _ in range(warm_up):  # transforms of albumentations are shared and have a state of their own
            for step in augmentations(name):
                step(drawn(5), np.random.default_rng(9), lambda: drawn(6))
        example, rng = drawn(7), np.random.default_rng(1)
        for step in augmentations(name):
            example = step(example, rng, lambda: drawn(8))
        made.append(example)
    np.testing.assert_array_equal(made[0].image_HWC, made[1].image_HWC)
    np.testing.assert_array_equal(made[0].masks_NHW, made[1].masks_NHW)


@pytest.mark.parametrize("name", ["rotate", "perspective"])
def test_what_comes_in_from_outside_is_black_and_ignored(name: str) -> None:
    white = Example(
        "a",
        np.full((64, 64, 3), 255, np.uint8),
        np.zeros(0, np.int64),
        np.zeros((0, 64, 64), np.bool_),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
        np.zeros((64, 64), np.bool_),
    )
    for seed in range(6):
        made = augmentations(name)[0](white, np.random.default_rng(seed))
        assert made.ignore_HW[made.image_HWC[..., 0] < 80].all(), seed
        assert not made.ignore_HW[made.image_HWC[..., 0] == 255].any(), seed


@pytest.mark.parametrize("seed", range(8))
def test_pasted_objects_show_the_donors_pixels_and_cover_what_was_there(seed: int) -> None:
    before, other = drawn(30 + seed), drawn(60 + seed)
    (paste,) = augmentations("copy_paste")
    after = paste(before, np.random.default_rng(seed), lambda: other)
    changed_HW = (after.image_HWC != before.image_HWC).any(axis=2)
    assert (after.image_HWC[changed_HW][:, 0] == 250).all(), "only pixels of objects are pasted"
    covered_HW = np.asarray(after.masks_NHW.any(axis=0))
    assert covered_HW[changed_HW].all()
    red_HW = after.image_HWC[..., 0] == 250
    assert not (red_HW & ~covered_HW & ~after.ignore_HW).any(), "no object is left without a label"


def test_without_a_donor_nothing_is_pasted() -> None:
    example = drawn(1)
    assert augmentations("copy_paste")[0](example, np.random.default_rng(0)) is example


def test_tight_boxes_are_those_of_pycocotools() -> None:
    stack_NHW = np.random.default_rng(0).random((20, 9, 13)) < 0.05
    stack_NHW[3] = False
    np.testing.assert_array_equal(tight_boxes(stack_NHW), [encode(m).box_xyxy for m in stack_NHW])
    assert tight_boxes(np.zeros((0, 9, 13), np.bool_)).shape == (0, 4)


def test_the_group_goes_before_the_class_and_the_class_before_the_usual() -> None:
    recipes = Recipes("light", {"crack": "none", "roof": ("blur",)}, {"night": ["gamma"]})

    def names(group: str, *labels: str) -> list[str]:
        instances = tuple(Instance(label, None, (0, 0, 1, 1)) for label in labels)
        return [step.name for step in recipes.of(Sample("a", "a.jpg", (4, 4), instances, group=group))]

    assert names("") == ["flip", "brightness"]
    assert names("", "roof") == ["blur"]
    assert names("", "roof", "crack") == []
    assert names("1/night", "crack") == names("night") == ["gamma"]


def test_a_class_that_is_none_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"`crak`, which is no class. Did you mean `crack`"):
        Recipes("light", {"crak": "none"}).check(("crack", "roof"))
    with pytest.raises(SpecError, match=r"`lihgt`.*Did you mean `light`"):
        Recipes("light", {"crack": "lihgt"}).check(("crack",))


@pytest.mark.slow  # a fresh process imports albumentations
def test_importing_the_library_asks_no_network() -> None:
    check = (
        "import socket, numpy as np\n"
        "asked = []\n"
        "socket.getaddrinfo = lambda *a, **k: asked.append(a) or []\n"  # what it raised would be swallowed
        "from tests.augment.test_augment import drawn\n"
        "from segdist.augment import augmentations\n"
        "augmentations('gamma')[0](drawn(3), np.random.default_rng(0))\n"
        "assert not asked, asked"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
