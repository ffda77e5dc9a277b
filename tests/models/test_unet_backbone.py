"""U-Net on a backbone of timm: its weights, its colours, its limits."""

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from segdist.core import storage
from segdist.core.errors import SpecError, WeightsError
from segdist.core.plugins import Objective
from segdist.core.published import PublishedWeights, WeightFile
from segdist.models.unet_cbam import FAMILY, Options, check
from segdist.models.unet_cbam.network import build
from segdist.nets import backbones, timm_features
from segdist.testing.pictures import CLASSES, example


def options(**more: Any) -> Options:
    return Options.model_validate(
        {"backbone": "test_resnet", "weights": "random", "image_size": 64, "width": 8, **more}
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A whole timm classifier with other weights than a random one, as the hub holds them."""
    torch.manual_seed(5)
    whole: Any = timm.create_model("test_resnet", pretrained=False)
    path = tmp_path / "model.safetensors"
    save_file(whole.state_dict(), path)
    return path


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_come_from_a_file(ending: str, file: Path) -> None:
    state = load_file(file)
    if ending == ".pth":
        torch.save(state, file.with_suffix(".pth"))
    network = build(options(weights=str(file.with_suffix(ending))), CLASSES)
    own = network.encoder.state_dict()
    assert torch.equal(own["body.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert not [name for name in own if name.startswith("body.fc")], "the classifier is left out"


def test_weights_come_from_an_object_store(file: Path, s3_bucket: str) -> None:
    uri = storage.join(s3_bucket, "weights", "model.safetensors")
    storage.write_atomic(uri, file.read_bytes())
    check(options(weights=uri))
    network = build(options(weights=uri), CLASSES)
    other = build(options(weights=str(file)), CLASSES)
    assert all(torch.equal(v, other.encoder.state_dict()[k]) for k, v in network.encoder.state_dict().items())


def test_a_missing_file_is_refused_before_the_start() -> None:
    with pytest.raises(WeightsError, match=r"`model\.unet_cbam\.weights` must be .* but there is no /nowhere/a\.pth"):
        check(options(weights="/nowhere/a.pth"))


def test_published_weights_are_found_by_their_name_once_they_were_fetched(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "cache"))
    content = file.read_bytes()
    held = WeightFile(file.name, "https://nowhere.invalid/a", len(content), sha256(content).hexdigest())
    drawn = PublishedWeights("drawn", "CC0", (held,), {"backbone": "test_resnet"})
    for module in (backbones, timm_features):
        monkeypatch.setattr(module, "CATALOGUE", (drawn,))
    with pytest.raises(WeightsError, match="segdist weights get drawn"):
        check(options(weights="drawn"))
    drawn.place.parent.mkdir(parents=True)
    drawn.place.write_bytes(content)
    check(options(weights="drawn"))
    own = build(options(weights="drawn"), CLASSES).encoder.state_dict()
    assert torch.equal(own["body.layer1.0.conv1.weight"], load_file(file)["layer1.0.conv1.weight"])
    with pytest.raises(SpecError, match=r"`model\.unet_cbam\.weights: drawn` must go with `backbone: test_resnet`"):
        check(options(weights="drawn", backbone="resnet18"))


@pytest.mark.parametrize("published", backbones.CATALOGUE, ids=lambda one: one.name)
def test_what_the_catalogue_holds_is_named_as_torchvision_does_by_its_digest(published: PublishedWeights) -> None:
    (held,) = published.files
    assert re.search(r"-([0-9a-f]{8})\.pth$", held.address)[1] == held.sha256[:8]  # type: ignore[index]


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"patch.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"other\.safetensors must hold timm's weights of test_resnet"):
        build(options(weights=str(path)), CLASSES)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"a": Path("/tmp")}, path)
    with pytest.raises(WeightsError, match=r"a plain torch state dict, but calls pathlib\.PosixPath"):
        build(options(weights=str(path)), CLASSES)


def test_an_unknown_backbone_is_refused_at_its_key_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"but got resnet81\. Did you mean `resnet18`\?") as error:
        check(options(backbone="resnet81"))
    assert error.value.option == "backbone"


def test_a_tag_behind_the_name_is_timms() -> None:
    check(options(backbone="resnet18.a1_in1k"))


@pytest.mark.parametrize("size", [32, 100])
def test_an_image_size_that_a_backbone_cannot_take_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="`image_size` must be 64, 96, 128"):
        options(image_size=size)


def test_colours_are_those_the_backbone_was_trained_with() -> None:
    network = build(options(backbone="test_vit"), CLASSES)
    card: Any = timm.models.get_pretrained_cfg("test_vit")
    assert network.colours[0] == pytest.approx([255 * v for v in card.mean])
    assert network.colours[1] == pytest.approx([255 * v for v in card.std])
    one = example(64)
    pixel = (one.image_HWC[0, 0] - np.array(network.colours[0])) / np.array(network.colours[1])
    np.testing.assert_allclose(network.collate([one])["images"][0, :, 0, 0], pixel, rtol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_files_of_every_make_fill_the_whole_backbone(name: str, tmp_path: Path) -> None:
    sized: dict[str, Any] = {"img_size": 64} if name == "test_vit" else {}
    whole: Any = timm.create_model(name, pretrained=False, **sized)
    path = tmp_path / "model.safetensors"
    save_file(whole.state_dict(), path)
    network = build(options(backbone=name, weights=str(path)), CLASSES)
    held = {v.flatten()[:4].numpy().tobytes() for v in whole.state_dict().values()}
    own = network.encoder.named_parameters()
    assert all(p.detach().flatten()[:4].numpy().tobytes() in held for _, p in own)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_backbones_of_every_make_give_a_class_map_at_full_resolution(name: str) -> None:
    network = build(options(backbone=name), CLASSES).eval()
    with torch.inference_mode():
        assert network.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(("name", "stride"), [("test_resnet", 2), ("test_convnext", 4)])
def test_without_full_resolution_the_class_map_is_as_fine_as_the_backbone_and_enlarged(name: str, stride: int) -> None:
    network = build(options(backbone=name, full_resolution=False), CLASSES).eval()
    with torch.inference_mode():
        assert network.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 3, 64 // stride, 64 // stride)
        assert network.outputs(torch.zeros(1, 3, 64, 64))[0].shape == (1, 3, 64, 64)


def test_from_scratch_full_resolution_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"`full_resolution: false` needs a `backbone`"):
        Options(full_resolution=False)


def test_frozen_with_the_encoder_is_the_backbone_and_not_the_new_stem() -> None:
    network = build(options(), CLASSES)
    assert not [n for n, _ in network.named_parameters() if "stem" in n and n.startswith(FAMILY.encoder)]
    assert any(n.startswith("stem.") for n, _ in network.named_parameters())


def test_an_expensive_term_without_a_weight_is_not_computed() -> None:
    network = build(Options(image_size=64, width=8, depth=2), CLASSES)
    assert network(network.collate([example(64)])).keys() == FAMILY.losses.keys(), "nobody has said which"
    network.objective = Objective(weights={**FAMILY.losses, "boundary": 0.01})
    batch = network.collate([example(64)])
    assert network(batch).keys() == {"cross_entropy", "dice", "focal", "boundary"}
    network.objective = Objective(weights=FAMILY.losses)
    assert "distance" not in network.collate([example(64)])
