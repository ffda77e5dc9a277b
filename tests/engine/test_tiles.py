"""Tiles show no seams: what is found through them is what is found in the whole image."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from segdist.core import masks
from segdist.core.errors import SpecError
from segdist.core.plugins import ImageHWC
from segdist.core.records import Instance, Prompt
from segdist.engine.tiles import predict_tiled, tiles_of

RADIUS = 3
CLASSES = ("red", "blue")
CHANNELS = {"red": 0, "blue": 2}


def smooth(image: ImageHWC) -> np.ndarray:
    side = 2 * RADIUS + 1
    return cv2.blur(image.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)


def regions(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
    """A network that sees `RADIUS` pixels around each pixel and gives one region a class."""
    return [
        tuple(
            Instance(name, rle, rle.box_xyxy, score=0.75)
            for name, channel in CHANNELS.items()
            if (rle := masks.encode(smooth(image)[..., channel] > 100)).area
        )
        for image in images
    ]


def objects(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
    """The same network, telling objects apart."""
    found = []
    for image in images:
        parts = []
        for name, channel in CHANNELS.items():
            seen_HW = (smooth(image)[..., channel] > 100).astype(np.uint8)
            _, labels_HW, boxes, _ = cv2.connectedComponentsWithStats(seen_HW, connectivity=8)
            for k, (x, y, width, height, _) in enumerate(boxes[1:], 1):
                inside_HW = labels_HW[y : y + height, x : x + width] == k
                parts.append((name, masks.place(inside_HW, (int(y), int(x)), image.shape[:2])))
        found.append(tuple(Instance(name, rle, rle.box_xyxy, score=0.75) for name, rle in parts))
    return found


def drawn(height: int, width: int, *, seed: int = 0, blobs: int = 60) -> ImageHWC:
    """Convex blobs of two colours, some larger than a tile."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    for k in range(blobs):
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = (int(rng.integers(5, 12)), int(rng.integers(5, 12))) if k else (width // 3, 30)
        shade = (255, 0, 0) if rng.random() < 0.5 else (0, 0, 255)
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, shade, -1)
    return image


@pytest.mark.parametrize("size_hw", [(300, 411), (64, 500), (129, 64), (200, 200)])
def test_every_pixel_is_decided_by_one_tile_that_sees_it(size_hw: tuple[int, int]) -> None:
    decided = np.zeros(size_hw, int)
    for tile in tiles_of(size_hw, size=64, overlap=0.25):
        decided[slice(*tile.own_rows), slice(*tile.own_columns)] += 1
        assert tile.rows[0] <= tile.own_rows[0] < tile.own_rows[1] <= tile.rows[1] <= size_hw[0]
        assert tile.columns[0] <= tile.own_columns[0] < tile.own_columns[1] <= tile.columns[1] <= size_hw[1]
        assert tile.rows[1] - tile.rows[0] == min(64, size_hw[0])
        for (seen, own), length in zip(
            ((tile.rows, tile.own_rows), (tile.columns, tile.own_columns)), size_hw, strict=True
        ):
            assert own[0] - seen[0] >= 8 or seen[0] == 0
            assert seen[1] - own[1] >= 8 or seen[1] == length
    assert (decided == 1).all()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_regions_are_exactly_those_of_the_whole_image(batch_size: int) -> None:
    image = drawn(230, 310)
    (whole,) = regions([image], [Prompt()])
    tiled = predict_tiled(
        regions, image, Prompt(), size=64, overlap=0.25, batch_size=batch_size, region_classes=CLASSES
    )
    assert sorted(tiled, key=lambda i: i.label) == sorted(whole, key=lambda i: i.label)


@pytest.mark.parametrize("seed", range(4))
def test_objects_are_exactly_those_of_the_whole_image(seed: int) -> None:
    image = drawn(230, 310, seed=seed, blobs=25)
    (whole,) = objects([image], [Prompt()])
    tiled = predict_tiled(objects, image, Prompt(), size=96, overlap=0.5)
    assert len(tiled) == len(whole)
    assert {(i.label, i.mask) for i in tiled} == {(i.label, i.mask) for i in whole}
    assert all(i.box_xyxy == i.mask.box_xyxy for i in tiled if i.mask)


def test_an_object_that_no_tile_sees_whole_is_one_object() -> None:
    image = np.zeros((80, 400, 3), np.uint8)
    image[30:50, 5:395] = (255, 0, 0)
    (found,) = predict_tiled(objects, image, Prompt(), size=80, overlap=0.25)
    assert found.mask == objects([image], [Prompt()])[0][0].mask
    assert found.score == pytest.approx(0.75)


def test_touching_objects_stay_apart_across_tiles() -> None:
    def stripes(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        """Finds each shade of red as an object of its own."""
        found = []
        for image in images:
            shades = sorted(set(image[..., 0].ravel().tolist()) - {0})
            rles = [masks.encode(image[..., 0] == shade) for shade in shades]
            found.append(tuple(Instance("red", rle, rle.box_xyxy, score=0.5) for rle in rles))
        return found

    image = np.zeros((60, 300, 3), np.uint8)
    image[10:30, 5:295, 0], image[30:50, 5:295, 0] = 100, 200
    tiled = predict_tiled(stripes, image, Prompt(), size=60, overlap=0.25)
    assert {i.mask for i in tiled} == {i.mask for i in stripes([image], [Prompt()])[0]}


def test_an_image_no_larger_than_a_tile_is_shown_as_it_is() -> None:
    image = drawn(60, 64, blobs=5)
    assert predict_tiled(objects, image, Prompt(), size=64, overlap=0.1) == objects([image], [Prompt()])[0]


def filled(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
    """Fills the boxes that it is shown."""
    return [
        tuple(
            Instance(label, masks.from_box(box, size_hw=image.shape[:2]), box, score=0.9)
            for box, label in zip(prompt.boxes_xyxy, prompt.labels, strict=True)
        )
        for image, prompt in zip(images, prompts, strict=True)
    ]


def test_each_box_gets_its_mask_in_order_also_across_tiles() -> None:
    boxes = ((10.0, 10.0, 200.0, 40.0), (150.0, 100.0, 160.0, 110.0), (60.0, 5.0, 70.0, 120.0))
    prompt = Prompt(boxes_xyxy=boxes, labels=("a", "b", "a"))
    image = np.zeros((128, 256, 3), np.uint8)
    tiled = predict_tiled(filled, image, prompt, size=64, overlap=0.25, batch_size=3)
    assert [i.label for i in tiled] == ["a", "b", "a"]
    assert [i.mask for i in tiled] == [masks.from_box(box, size_hw=(128, 256)) for box in boxes]


def test_a_box_in_which_nothing_is_found_still_gets_an_answer() -> None:
    def blind(images: Sequence[ImageHWC], prompts: Sequence[Prompt]) -> list[tuple[Instance, ...]]:
        return [
            tuple(
                Instance(label, masks.empty((64, 64)), (0.0, 0.0, 0.0, 0.0), score=0.0)
                for label in p.labels
            )
            for p in prompts
        ]  # fmt: skip

    (found,) = predict_tiled(
        blind,
        np.zeros((64, 128, 3), np.uint8),
        Prompt(boxes_xyxy=((5.0, 5.0, 9.0, 9.0),), labels=("a",)),
        size=64,
        overlap=0.25,
    )
    assert (found.label, found.score, found.box_xyxy) == ("a", 0.0, (5.0, 5.0, 9.0, 9.0))


def test_points_in_tiles_are_refused_with_the_fix() -> None:
    prompt = Prompt(points_xy=(((3.0, 3.0),),), point_is_object=((True,),))
    with pytest.raises(SpecError, match="Show it boxes, or no tiles"):
        predict_tiled(filled, np.zeros((64, 128, 3), np.uint8), prompt, size=64, overlap=0.25)


@pytest.mark.slow
def test_a_scan_of_8000_pixels_is_segmented_as_one_image_would_be() -> None:
    image = drawn(8000, 8000, blobs=4000)
    for network, region_classes in ((regions, CLASSES), (objects, ())):
        (whole,) = network([image], [Prompt()])
        tiled = predict_tiled(network, image, Prompt(), size=1024, overlap=0.1, region_classes=region_classes)
        assert len(tiled) == len(whole)
        assert {(i.label, i.mask) for i in tiled} == {(i.label, i.mask) for i in whole}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes on a quiet machine
def test_a_scan_of_8000_pixels_needs_less_than_two_gibibytes(tmp_path: Path) -> None:
    program = """
        import io, resource, torch
        import numpy as np
        from PIL import Image
        from segdist.engine import checkpoint
        from segdist.engine.predict import predict
        from segdist.core.records import Sample
        from segdist.core.spec import EvaluateSpec, ModelSpec

        torch.set_num_threads(1)
        model = {"family": "unet_cbam", "unet_cbam": {"image_size": 512, "width": 4, "depth": 1}}
        network = checkpoint.build(ModelSpec.model_validate(model), ("a", "b"))
        noise = np.random.default_rng(0).integers(0, 256, (250, 250, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((8000, 8000)).save(buffer, "JPEG")
        evaluate = EvaluateSpec.model_validate({"tile": {"overlap": 0.1}, "batch_size": 2})
        row = Sample("scan", "scan.jpg", (8000, 8000)), buffer.getvalue()
        ((_, _, found),) = predict(network, [row], evaluate)
        assert found.instances
        assert all(i.mask.size_hw == (8000, 8000) for i in found.instances)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    file = tmp_path / "scan.py"
    file.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, str(file)], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) * 1024 < 2 * 2**30
