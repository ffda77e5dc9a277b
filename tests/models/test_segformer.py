"""SegFormer: what transformers makes of the same weights, in its own way; weights that fit, or say so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerForImageClassification, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from segdist import adapters
from segdist.core import masks
from segdist.core.errors import WeightsError
from segdist.core.records import Instance, Prompt
from segdist.core.spec import AdapterSpec
from segdist.models.segformer import FAMILY, Options, check
from segdist.models.segformer.network import Segformer, build
from segdist.reading.examples import letterbox
from segdist.testing.pictures import CLASSES, example, picture

SIZE = 64


def network(classes: tuple[str, ...] = CLASSES, seed: int = 0, **options: Any) -> Segformer:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, **options}), classes)


def undecided(seed: int = 0) -> Segformer:
    """A random network whose answers vary over the picture."""
    drawn = network(seed=seed)
    with torch.no_grad():
        for parameter in drawn.model.decode_head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        image, _ = picture((SIZE, SIZE))
        logits = drawn.eval().logits(drawn.pixels([image]))
        drawn.model.decode_head.classifier.bias -= logits.mean((0, 2, 3))
    return drawn


def class_map(found: tuple[Instance, ...], size_hw: tuple[int, int]) -> Any:
    class_HW = np.zeros(size_hw, np.int64)
    for instance in found:
        assert instance.mask is not None
        class_HW[masks.decode(instance.mask)] = 1 + CLASSES.index(instance.label)
    return class_HW


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network of transformers, as a download would leave it, with three classes instead of ours."""
    path = tmp_path_factory.mktemp("weights") / "saved"
    network(("a", "b", "c"), seed=1).model.save_pretrained(path)
    return path


class TestAgainstTransformers:
    """Its image processor, its network, its post-processing and its loss."""

    processor = SegformerImageProcessorPil(size={"height": SIZE, "width": SIZE})

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("size_hw", [(SIZE, SIZE), (48, SIZE), (SIZE, 37)])
    def test_the_class_of_each_pixel_is_the_one_that_its_processor_finds(
        self, size_hw: tuple[int, int], seed: int
    ) -> None:
        ours, (image, _) = undecided(seed), picture(size_hw)
        inputs = self.processor(image, do_resize=False, return_tensors="pt")["pixel_values"]
        inputs = torch.nn.functional.pad(inputs, (0, SIZE - size_hw[1], 0, SIZE - size_hw[0]))
        with torch.inference_mode():
            theirs = self.processor.post_process_semantic_segmentation(ours.model(inputs), [(SIZE, SIZE)])[0]
            (found,) = ours.predict([image], [Prompt()])
        expected_HW = theirs[: size_hw[0], : size_hw[1]].numpy()
        assert len(np.unique(expected_HW)) == 3
        assert (class_map(found, size_hw) == expected_HW).mean() > 0.999  # equal but for ties of single precision

    def test_a_square_picture_three_times_as_large_is_scaled_and_answered_as_its_processor_does(self) -> None:
        ours, (image, _) = undecided(), picture((3 * SIZE, 3 * SIZE))
        inputs = self.processor(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours.pixels([image]), inputs, rtol=0, atol=1e-5)
        with torch.inference_mode():
            (theirs,) = self.processor.post_process_semantic_segmentation(ours.model(inputs), [image.shape[:2]])
            (found,) = ours.predict([image], [Prompt()])
        # We enlarge in two steps, over the network's square, and probabilities instead of logits.
        assert (class_map(found, image.shape[:2]) == theirs.numpy()).mean() > 0.97

    def test_cross_entropy_is_its_loss(self) -> None:
        ours = network().eval()
        veiled = example(SIZE)
        veiled.ignore_HW[:10] = True
        batch = ours.collate([veiled, example(SIZE, standing=True)])
        labels = torch.where(batch["ignore"], ours.model.config.semantic_loss_ignore_index, batch["target"])
        torch.testing.assert_close(ours(batch)["cross_entropy"], ours.model(batch["images"], labels=labels).loss)

    def test_a_saved_network_answers_the_same_without_segdist_and_names_its_classes(self, tmp_path: Path) -> None:
        ours = undecided()
        ours.model.save_pretrained(tmp_path)
        theirs: Any = SegformerForSemanticSegmentation.from_pretrained(tmp_path).eval()
        assert theirs.config.id2label == {0: "background", 1: "disc", 2: "bar"}
        assert theirs.config.label2id == {"background": 0, "disc": 1, "bar": 2}
        shown = ours.pixels([picture((SIZE, SIZE))[0]])
        with torch.inference_mode():
            torch.testing.assert_close(theirs(shown).logits, ours.logits(shown))


class TestWeights:
    def test_a_saved_folder_gives_its_weights_and_a_new_classifier_for_our_classes(self, folder: Path) -> None:
        loaded, saved = network(weights=str(folder)).model, network(("a", "b", "c"), seed=1).model
        assert loaded.config.id2label == {0: "background", 1: "disc", 2: "bar"}
        ours, theirs = loaded.state_dict(), saved.state_dict()
        assert ours.keys() == theirs.keys()
        differ = {name for name, value in theirs.items() if not torch.equal(value, ours[name])}
        assert differ == {"decode_head.classifier.weight", "decode_head.classifier.bias"}

    def test_tensors_are_found_under_the_names_that_published_files_have(self, folder: Path) -> None:
        names = set(load_file(folder / "model.safetensors"))
        assert {
            "segformer.encoder.patch_embeddings.0.proj.weight",
            "segformer.encoder.block.0.0.attention.self.query.weight",
            "segformer.encoder.block.0.0.attention.self.sr.weight",
            "segformer.encoder.layer_norm.3.bias",
            "decode_head.linear_c.0.proj.weight",
        } <= names

    def test_weights_of_the_encoder_alone_get_a_whole_new_head(self, tmp_path: Path) -> None:
        torch.manual_seed(2)
        encoder = SegformerForImageClassification(network().model.config)
        encoder.save_pretrained(tmp_path)
        loaded = network(weights=str(tmp_path)).model.segformer.state_dict()
        assert loaded
        assert all(torch.equal(loaded[name], value) for name, value in encoder.segformer.state_dict().items())

    @pytest.mark.parametrize(
        "lost", ["decode_head.linear_fuse.weight", "segformer.encoder.block.1.0.mlp.dense1.weight"]
    )
    def test_one_missing_tensor_is_an_error_that_names_it(self, lost: str, folder: Path, tmp_path: Path) -> None:
        state = load_file(folder / "model.safetensors")
        del state[lost]
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        with pytest.raises(WeightsError, match="1 tensor is missing or of another shape"):
            network(weights=str(tmp_path))

    def test_pickles_and_other_networks_are_refused_before_anything_is_built(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
        torch.save({}, tmp_path / "pytorch_model.bin")
        with pytest.raises(WeightsError, match="safetensors"):
            check(Options(weights=str(tmp_path)))
        (tmp_path / "model.safetensors").touch()
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "upernet"}))
        with pytest.raises(WeightsError, match=r"must describe a `segformer`.*segdist weights get nvidia/segformer"):
            check(Options(weights=str(tmp_path)))

    @pytest.mark.parametrize(
        "said",
        [
            {"strides": [0, 0, 0, 0]},
            {"strides": [64, 64, 64, 64]},
            {"reshape_last_stage": False},
            {"return_dict": False, "output_hidden_states": False},
            {"output_attentions": True},
            {"num_labels": 7},
        ],
        ids=str,
    )
    def test_what_a_config_says_beside_the_shapes_of_tensors_changes_nothing(
        self, said: dict[str, Any], folder: Path, tmp_path: Path
    ) -> None:
        config = {**json.loads((folder / "config.json").read_text()), **said}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
        image, _ = picture((48, SIZE))
        with torch.inference_mode():
            ours, plain = (network(weights=str(w)).eval() for w in (tmp_path, folder))
            assert ours.predict([image], [Prompt()]) == plain.predict([image], [Prompt()])

    def test_a_config_larger_than_its_files_is_refused(self, folder: Path, tmp_path: Path) -> None:
        config = {**json.loads((folder / "config.json").read_text()), "depths": [2000, 2000, 2000, 2000]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
        with pytest.raises(WeightsError, match="must describe what its files hold"):
            network(weights=str(tmp_path))


@pytest.mark.parametrize(
    ("size", "millions"), [("b0", 3.8), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1), ("b5", 84.7)]
)
def test_sizes_have_as_many_parameters_as_published(size: str, millions: float) -> None:
    """Xie et al. 2021, table 1, with the 150 classes of ADE20K."""
    with torch.device("meta"):
        drawn = build(Options.model_validate({"weights": "random", "size": size}), tuple(map(str, range(149))))
    assert sum(p.numel() for p in drawn.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_lora_trains_the_head_and_little_of_the_encoder() -> None:
    ours = network()
    adapters.apply(ours, FAMILY, AdapterSpec(kind="lora", rank=2))
    trained = adapters.trained_names(ours)
    inside = {name for name in trained if name.startswith(FAMILY.encoder)}
    assert len(inside) == 2 * 2 * 4  # two factors, q and v, one block in each of four stages
    assert all("lora_" in name for name in inside)
    assert {name for name, _ in ours.named_parameters() if name.startswith("model.decode_head.")} == trained - inside


def test_the_network_sees_pictures_as_examples_do() -> None:
    image, _ = picture((90, 200))
    shown = network().pixels([image])
    assert shown.shape == (1, 3, SIZE, SIZE)
    height = letterbox(image, SIZE).shape[0]
    assert shown[0, :, :height].abs().sum() > 0
    assert shown[0, :, height:].abs().sum() == 0
