"""U-Net with CBAM: sizes, attention, and the limits of its options."""

import pytest
import torch

from segdist.models.unet_cbam import FAMILY, Options
from segdist.models.unet_cbam.network import _Cbam, build


def test_the_debug_variant_is_tiny() -> None:
    network = build(Options.model_validate(dict(FAMILY.debug)), ("a", "b"))
    assert sum(p.numel() for p in network.parameters()) < 250_000


@pytest.mark.parametrize("depth", [1, 4])
def test_logits_have_the_resolution_of_the_image_and_a_background_class(depth: int) -> None:
    network = build(Options(image_size=64, width=4, depth=depth), ("a", "b", "c"))
    assert network.logits(torch.zeros(2, 3, 64, 64)).shape == (2, 4, 64, 64)


def test_a_depth_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of 2\^depth = 16, but got 100"):
        Options(image_size=100, depth=4)


def test_attention_only_ever_weakens_features() -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, 16, 8, 8)
    y_BCHW = _Cbam(16)(x_BCHW)
    assert (y_BCHW.abs() <= x_BCHW.abs()).all()
    assert (y_BCHW.sign() == x_BCHW.sign()).all()


def test_predictions_of_a_batch_do_not_depend_on_its_other_images() -> None:
    """GroupNorm, not BatchNorm: also while training, with small batches and under DDP."""
    network = build(Options(image_size=32, width=8, depth=2), ("a",)).train()
    one, other = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    together = network.logits(torch.cat([one, other]))[:1]
    torch.testing.assert_close(together, network.logits(one), atol=1e-5, rtol=1e-4)
