"""What is special about Mask2Former; the contract suite trains it like every other family."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from segdist import adapters
from segdist.core.errors import SpecError, WeightsError
from segdist.core.plugins import Example
from segdist.core.records import Prompt
from segdist.core.spec import AdapterSpec, RunSpec
from segdist.engine import checkpoint
from segdist.exporting import export
from segdist.models.mask2former import FAMILY, Options, check
from segdist.models.mask2former.network import Mask2Former, build
from segdist.nets import packaged
from tests.nets.rectangles import EMPTY, ONE, SIZE, example

CLASSES = ("roof", "tree")


def network(seed: int = 0, **options: Any) -> Mask2Former:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, **options}), CLASSES)


def weighted(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([FAMILY.losses[name] * value for name, value in terms.items()]).sum()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network of transformers, as a download would leave it, with three classes instead of ours."""
    path = tmp_path_factory.mktemp("weights") / "saved"
    drawn_for_three().save_pretrained(path)
    return path


def drawn_for_three() -> Any:
    torch.manual_seed(1)
    return build(Options.model_validate(FAMILY.debug), ("a", "b", "c")).model


class TestWeights:
    def test_a_saved_folder_gives_its_weights_and_a_new_head_for_our_classes(self, folder: Path) -> None:
        loaded, saved = network(weights=str(folder)).model.state_dict(), drawn_for_three().state_dict()
        assert loaded["class_predictor.weight"].shape[0] == len(CLASSES) + 1
        differ = {name for name in saved.keys() | loaded.keys() if not torch.equal(saved[name], loaded[name])}
        assert differ == {"class_predictor.weight", "class_predictor.bias"}

    def test_another_number_of_queries_starts_them_untrained_and_keeps_the_rest(self, folder: Path) -> None:
        loaded = network(weights=str(folder), num_queries=7)
        batch = loaded.collate([ONE])
        assert loaded.model(batch["pixels_B3SS"]).masks_queries_logits.shape[1] == 7

    def test_a_state_dict_comes_back_bit_for_bit_after_building_again(self, folder: Path) -> None:
        for options in ({}, {"weights": str(folder)}):
            first, second = network(seed=0, **options), network(seed=5, **options)
            second.load_state_dict(first.state_dict())
            image = ONE.image_HWC
            with torch.inference_mode():
                assert first.eval().predict([image], [Prompt()]) == second.eval().predict([image], [Prompt()])
            state = second.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())

    def test_a_folder_that_is_not_there_is_an_error_that_says_where_to_get_one(self, tmp_path: Path) -> None:
        (tmp_path / "weights").mkdir()
        for path in ("./nowhere", str(tmp_path / "nowhere"), str(tmp_path / "weights" / "swin")):
            with pytest.raises(WeightsError, match="segdist weights get"):
                check(Options(weights=path))

    def test_what_looks_like_a_hub_name_is_not_looked_up_before_the_start(self) -> None:
        check(Options(weights="facebook/mask2former-swin-tiny-coco-instance"))
        check(Options(weights="random"))

    def test_an_unreachable_hub_is_an_error_that_names_the_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match="nobody/nothing"):
            network(weights="nobody/nothing")

    def test_a_folder_without_safetensors_is_refused_because_pickles_run_code(
        self, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        torch.save({}, tmp_path / "pytorch_model.bin")
        with pytest.raises(WeightsError, match="safetensors"):
            network(weights=str(tmp_path))

    def test_weights_of_another_network_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr"}))
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(WeightsError, match="detr"):
            check(Options(weights=str(tmp_path)))

    def test_damaged_or_incomplete_weights_are_refused(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        content = (folder / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
        with pytest.raises(WeightsError, match="cannot be loaded"):
            network(weights=str(tmp_path))
        state = load_file(folder / "model.safetensors")
        del state["model.pixel_level_module.decoder.mask_projection.weight"]
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match="mask_projection"):
            network(weights=str(tmp_path))


class TestBackboneOfTimm:
    def test_it_begins_with_the_packaged_weights_and_their_colours(self) -> None:
        net = network(backbone="efficientnet_lite0", weights="packaged")
        held = packaged.state("efficientnet_lite0")
        own = net.model.model.pixel_level_module.encoder._backbone.state_dict()
        assert own
        assert all(torch.equal(value, held[name]) for name, value in own.items())
        assert net.colours == ((127.5,) * 3, (127.5,) * 3)
        pixel = net.collate([ONE])["pixels_B3SS"][0, :, 0, 0]
        np.testing.assert_allclose(pixel, ONE.image_HWC[0, 0] / 127.5 - 1, rtol=1e-5)

    @pytest.mark.parametrize(("size", "width"), [("debug", 64), ("swin_tiny", 256)])
    def test_size_is_that_of_what_follows_it(self, size: str, width: int) -> None:
        net = network(backbone="test_convnext", weights="random", size=size)
        assert net.model.class_predictor.in_features == width

    def test_all_of_it_is_trained_also_where_nothing_is_shown(self) -> None:
        net = network(backbone="test_resnet", weights="random").train()
        weighted(net(net.collate([EMPTY, EMPTY]))).backward()  # type: ignore[no-untyped-call]
        assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []

    def test_one_that_is_unknown_or_has_other_scales_is_refused_at_its_key(self) -> None:
        with pytest.raises(
            SpecError, match=r"`model\.mask2former\.backbone` .* swin or .*resnet81.*`resnet18`"
        ) as error:
            check(Options(backbone="resnet81", weights="random"))
        assert error.value.option == "backbone"
        with pytest.raises(SpecError, match=r"features at 4, 8, 16, 32 times fewer .* test_vit gives"):
            network(backbone="test_vit", weights="random")
        with pytest.raises(ValueError, match="64 or more"):
            network(backbone="test_resnet", weights="random", image_size=32)

    def test_its_export_needs_neither_the_package_nor_another_file(self, tmp_path: Path) -> None:
        options = {**FAMILY.debug, "backbone": "efficientnet_lite0", "weights": "packaged"}
        run = RunSpec.model_validate({"model": {"family": "mask2former", "mask2former": options}})
        net = checkpoint.build(run.model, CLASSES).eval()
        checkpoint.save(net, tmp_path / "trained", run, CLASSES)
        export.write(*export.load_merged(tmp_path / "trained"), tmp_path / "exported")
        assert checkpoint.describe(tmp_path / "exported").model.family_options()["weights"] == "random"
        image, again = ONE.image_HWC, checkpoint.load(tmp_path / "exported")
        with torch.inference_mode():
            assert again.predict([image], [Prompt()]) == net.predict([image], [Prompt()])


class TestTraining:
    @pytest.mark.parametrize("kind", ["full", "lora", "frozen_encoder"])
    @pytest.mark.parametrize("examples", [[ONE, EMPTY], [EMPTY, EMPTY]], ids=["one empty", "all empty"])
    def test_everything_trained_gets_a_gradient_so_ddp_never_waits(self, kind: Any, examples: list[Example]) -> None:
        net = network().train()
        adapters.apply(net, FAMILY, AdapterSpec(kind=kind, rank=2))
        terms = net(net.collate(examples))
        assert terms.keys() == FAMILY.losses.keys()
        assert all(value.ndim == 0 and torch.isfinite(value) for value in terms.values())
        weighted(terms).backward()  # type: ignore[no-untyped-call]
        lost = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
        assert lost == []

    def test_lora_trains_the_new_head_and_leaves_most_of_the_network_alone(self) -> None:
        net = network()
        everything = sum(p.numel() for p in net.parameters())
        adapters.apply(net, FAMILY, AdapterSpec(kind="lora", rank=2))
        trained = {name for name, p in net.named_parameters() if p.requires_grad}
        assert "model.class_predictor.weight" in trained
        assert any("swin" in name and "lora_A" in name for name in trained)
        assert adapters.trained_parameters(net) < 0.05 * everything

    def test_the_encoder_prefix_is_the_swin_backbone(self) -> None:
        names = [name for name, _ in network().named_parameters()]
        inside = [name for name in names if name.startswith(FAMILY.encoder)]
        assert inside
        assert any("swin" in name for name in inside)
        assert not any("swin" in name for name in names if name not in inside)
        assert not any("decoder" in name or "predictor" in name for name in inside)

    def test_training_goes_on_after_a_prediction_under_inference_mode(self) -> None:
        net = network()
        with torch.inference_mode():
            net.eval().predict([ONE.image_HWC], [Prompt()])
        weighted(net.train()(net.collate([ONE]))).backward()  # type: ignore[no-untyped-call]
        assert net.model.class_predictor.weight.grad is not None

    def test_what_could_not_be_taught_is_counted_once(self) -> None:
        crowded = example(boxes={(x, 8, x + 2, 20): 0 for x in range(0, 44, 2)})
        net = network().train()
        net(net.collate([crowded]))
        assert net.take_counts() == {"matching_fallbacks": 0, "surplus_objects": 22 - 20}
        assert net.take_counts()["surplus_objects"] == 0

    def test_an_object_of_which_no_pixel_is_left_teaches_nothing(self) -> None:
        gone = replace(ONE, masks_NHW=np.zeros_like(ONE.masks_NHW))
        batch = network().collate([gone])
        assert batch["labels"][0].shape == (0,)
        assert batch["masks"][0].shape == (0, SIZE, SIZE)

    def test_bfloat16_autocast_gives_the_losses_in_float32(self) -> None:
        net = network()
        with torch.autocast("cpu", torch.bfloat16):
            terms = net(net.collate([ONE, EMPTY]))
        assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in terms.values())


class TestPrediction:
    def test_scores_are_class_score_times_mean_mask_probability_best_first(self) -> None:
        net = network()
        probabilities_QC = torch.tensor([[0.5, 0.2, 0.3], [0.01, 0.9, 0.09], [0.02, 0.03, 0.95]])
        masks_Qhw = torch.full((3, 16, 16), -4.0)
        masks_Qhw[0, :8, :8] = 2.0
        masks_Qhw[1, :, 8:] = 1.0
        found = net._instances(probabilities_QC.log(), masks_Qhw, (100, 200))
        assert [i.label for i in found] == ["tree", "roof", "tree"]
        inside = [1.0, 2.0, 2.0]
        for instance, score, logit in zip(found, (0.9, 0.5, 0.2), inside, strict=True):
            assert instance.mask is not None
            assert instance.mask.size_hw == (100, 200)
            assert instance.box_xyxy == instance.mask.box_xyxy
            # Enlarging smooths the rim of a mask, so the mean lies between undecided and the value inside.
            assert 0.85 * score * torch.sigmoid(torch.tensor(logit)) < instance.score
            assert instance.score <= score * torch.sigmoid(torch.tensor(logit)) + 1e-6

    def test_each_image_comes_back_at_its_own_size_whatever_it_is_batched_with(self) -> None:
        net = network().eval()
        wide, tall = np.full((40, 100, 3), 90, np.uint8), np.full((130, 30, 3), 160, np.uint8)
        with torch.inference_mode():
            together = net.predict([wide, tall], [Prompt(), Prompt()])
            alone = net.predict([wide], [Prompt()])
            assert net.predict([], []) == []
        for image, found in zip((wide, tall), together, strict=True):
            assert found
            assert {i.mask.size_hw for i in found if i.mask} == {image.shape[:2]}
            assert [i.score for i in found] == sorted((i.score for i in found), reverse=True)
        assert [i.score for i in together[0]] == pytest.approx([i.score for i in alone[0]], rel=1e-3)

    def test_large_images_are_decoded_in_parts_with_the_same_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net = network().eval()
        with torch.inference_mode():
            (at_once,) = net.predict([ONE.image_HWC], [Prompt()])
            monkeypatch.setattr("segdist.nets.queries._PIXELS_AT_ONCE", 1)
            (in_parts,) = net.predict([ONE.image_HWC], [Prompt()])
        assert len(at_once) > 1
        assert [replace(i, score=0.0) for i in in_parts] == [replace(i, score=0.0) for i in at_once]
        assert [i.score for i in in_parts] == pytest.approx([i.score for i in at_once], rel=1e-6)  # sums round apart
