"""Stacking examples: normalisation, padding, overlaps."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from segdist.nets.collate import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    class_maps,
    ignored,
    on_device,
    padded_masks,
    stack_images,
)
from segdist.testing.pictures import example


def test_images_are_normalised_and_then_padded_with_zeros_as_sam_does() -> None:
    image_HWC = np.full((30, 64, 3), 200, np.uint8)
    (square_CHW,) = stack_images([image_HWC], 64)
    expected = (200 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(square_CHW[:, 29, 63].numpy(), expected, rtol=1e-6)
    assert not square_CHW[:, 30:].any()


def test_the_padding_teaches_nothing() -> None:
    (ignored_SS,) = ignored([example(64)], 64)
    assert ignored_SS[48:].all()
    assert not ignored_SS[:48].any()


def test_a_small_mask_on_a_large_one_keeps_its_pixels_whatever_their_order() -> None:
    large, small = np.zeros((48, 64), np.bool_), np.zeros((48, 64), np.bool_)
    large[5:40, 5:40], small[10:15, 10:15] = True, True
    base = example(64)
    for order in ([0, 1], [1, 0]):
        stacked = np.stack([large, small])[order]
        (map_SS,) = class_maps([replace(base, masks_NHW=stacked, labels=np.array([0, 1])[order])], 64)
        assert int(map_SS[12, 12]) == 2
        assert int(map_SS[30, 30]) == 1
        assert int(map_SS[47, 63]) == 0


def test_an_image_without_objects_gives_background_and_no_masks() -> None:
    bare = example(64, objects=False)
    assert not class_maps([bare], 64).any()
    assert padded_masks(bare, 64).shape == (0, 64, 64)
    assert padded_masks(bare, 64).dtype == torch.bool


class Pair(NamedTuple):
    """As a family may have in a batch."""

    boxes: torch.Tensor
    name: str


def test_a_batch_goes_to_the_device_with_all_that_is_inside_it() -> None:
    one = torch.ones(1)
    batch = {"a": one, "list": [one, [one]], "tuple": (one, "b"), "pair": Pair(one, "c"), "map": {"d": {"e": one}}}
    found = on_device(batch, torch.device("meta"))
    tensors = [
        *(found["a"], found["list"][0], found["list"][1][0], found["tuple"][0], found["pair"].boxes),
        found["map"]["d"]["e"],
    ]
    assert [t.device.type for t in tensors] == ["meta"] * 6
    assert (found["tuple"][1], found["pair"].name, type(found["pair"])) == ("b", "c", Pair)
    assert one.device.type == "cpu"
