"""Points are sampled from predicted masks as by transformers' Mask2Former, to the last bit, near the frame too."""

import pytest
import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import sample_point

from segdist.nets.points import ValidPixels

SIDE, SMALL, COUNT = 32, 8, 300


def reference(logits_MChw: Tensor, pixels_MP: Tensor) -> Tensor:
    """(M, C, P) by transformers, at the centres of pixels."""
    centres_MP2 = torch.stack([pixels_MP % SIDE + 0.5, pixels_MP // SIDE + 0.5], -1) / SIDE
    found: Tensor = sample_point(logits_MChw, centres_MP2, align_corners=False)
    return found


@pytest.fixture
def pixels() -> ValidPixels:
    torch.manual_seed(3)
    return ValidPixels(torch.ones(2, SIDE, SIDE, dtype=torch.bool))


def test_sampled_logits_are_those_of_the_reference_at_every_pixel(pixels: ValidPixels) -> None:
    logits = torch.randn(3, 2, SMALL, SMALL) * 4
    everywhere = torch.arange(SIDE * SIDE).expand(3, -1)
    expected = reference(logits, everywhere)
    assert torch.equal(pixels.values(logits, everywhere), expected)
    frame = everywhere[0][(everywhere[0] < SIDE) | (everywhere[0] % SIDE == 0)]
    clamped = torch.nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear").flatten(2)
    assert not torch.allclose(expected[..., frame], clamped[..., frame], atol=0.1), "zeros lie around the mask"


def test_undecided_points_are_those_that_the_reference_calls_uncertain(pixels: ValidPixels) -> None:
    logits, image = torch.randn(4, SMALL, SMALL), torch.tensor([0, 1, 1, 0])
    torch.manual_seed(5)
    chosen = pixels.draw_undecided(logits, image, COUNT)
    torch.manual_seed(5)
    drawn = pixels.draw(image, 3 * COUNT)
    uncertainty = -reference(logits[:, None], drawn)[:, 0].abs()
    kept = int(0.75 * COUNT)
    best = drawn.gather(1, uncertainty.topk(kept, dim=1).indices)
    assert torch.equal(chosen[:, :kept].sort(1).values, best.sort(1).values)
    assert chosen.shape == (4, COUNT)
