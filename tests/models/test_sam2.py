"""SAM 2: the same masks as transformers' own forward, its traps, and weights that fit or say so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam2Config, Sam2Model

from segdist.core import masks
from segdist.core.errors import WeightsError
from segdist.models.sam2 import FAMILY, Options, check
from segdist.models.sam2.architecture import check_global_attention
from segdist.models.sam2.network import Sam2, build
from segdist.nets.collate import IMAGENET_MEAN, IMAGENET_STD, stack_images
from segdist.reading.examples import letterbox, restore, scale_boxes
from segdist.testing.pictures import CLASSES, example, picture, prompt


def network(seed: int = 0, **options: Any) -> Sam2:
    torch.manual_seed(seed)
    return build(Options.model_validate({**FAMILY.debug, "image_size": 64, **options}), CLASSES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved network of transformers, as a download would leave it."""
    path = tmp_path_factory.mktemp("weights") / "saved"
    network(seed=1).model.save_pretrained(path)
    return path


@pytest.mark.parametrize("mode", ["one", "best_of_three"])
@pytest.mark.parametrize("size_hw", [(48, 64), (90, 50)], ids=str)
def test_masks_of_boxes_are_those_of_transformers_own_forward(mode: str, size_hw: tuple[int, int]) -> None:
    ours = network(prompt="box", masks=mode).eval()
    reference = Sam2Model(ours.model.config).eval()
    reference.load_state_dict(ours.model.state_dict())
    reference.backbone_feature_sizes = [[16, 16], [8, 8], [4, 4]]
    reference.prompt_encoder.input_image_size, reference.prompt_encoder.image_embedding_size = 64, (4, 4)
    reference.mask_decoder.dynamic_multimask_via_stability = False
    image, truth = picture(size_hw)
    asked = prompt(truth)
    boxes_N4 = torch.from_numpy(scale_boxes(np.array(asked.boxes_xyxy, np.float32), size_hw, 64))
    pixels = stack_images([letterbox(image, 64)], 64, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    with torch.inference_mode():
        (found,) = ours.predict([image], [asked])
        expected = reference(pixel_values=pixels, input_boxes=boxes_N4[None], multimask_output=mode != "one")
    for n, instance in enumerate(found):
        best = int(expected.iou_scores[0, n].argmax())
        own_HW = restore(expected.pred_masks[0, n, best][None], size_hw=size_hw, image_size=64)[0] > 0
        assert instance.mask == masks.encode(own_HW.numpy())
        assert instance.score == pytest.approx(float(expected.iou_scores[0, n, best]), abs=1e-5)


@pytest.mark.parametrize("asked", ["box", "point", "mixed", "class", "everything"])
@pytest.mark.parametrize("mode", ["one", "best_of_three"])
def test_every_mode_trains_exactly_what_it_says(asked: str, mode: str) -> None:
    model = network(prompt=asked, masks=mode).train()
    for _ in range(8):
        terms = model(model.collate([example(64)] * 2))
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
    named = dict(model.named_parameters())
    assert {n for n, p in named.items() if p.grad is not None} == {n for n, p in named.items() if p.requires_grad}


class TestGlobalAttention:
    @pytest.mark.parametrize("block", [1, 3, 10])
    def test_in_the_first_block_of_a_pooling_stage_it_is_refused(self, block: int) -> None:
        with pytest.raises(
            WeightsError, match=rf"first block of a pooling stage \(\[1, 3, 10\]\), but holds \[{block}"
        ):
            check_global_attention([1, 2, 7, 2], [5, block], pools=3)

    def test_elsewhere_it_is_taken_as_the_published_sizes_have_it(self) -> None:
        check_global_attention([1, 2, 7, 2], [5, 7, 9], pools=3)
        check_global_attention([2, 6, 36, 4], [23, 33, 43], pools=3)
        check_global_attention([1, 2, 3], [3], pools=1)

    def test_what_is_refused_would_not_run(self, folder: Path) -> None:
        config = Sam2Config.from_pretrained(folder)
        config.vision_config.backbone_config.global_attention_blocks = [2]
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            Sam2Model(config)(pixel_values=torch.zeros(1, 3, 64, 64))

    def test_a_folder_that_has_it_is_refused_when_loaded(self, folder: Path, tmp_path: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["backbone_config"]["global_attention_blocks"] = [2]
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        with pytest.raises(WeightsError, match="pooling stage"):
            network(weights=str(tmp_path))


class TestWeights:
    @pytest.mark.filterwarnings("ignore:You are using a model of type")
    def test_a_saved_folder_gives_its_weights_also_where_it_describes_the_video_model(
        self, folder: Path, tmp_path: Path
    ) -> None:
        config = json.loads((folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "sam2_video"}))
        (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        saved = network(seed=1).model.state_dict()
        for path in (folder, tmp_path):
            check(Options(weights=str(path)))
            loaded = network(weights=str(path)).model.state_dict()
            assert all(torch.equal(value, loaded[name]) for name, value in saved.items())

    def test_weights_run_at_another_image_size(self, folder: Path) -> None:
        model = network(weights=str(folder), image_size=96, prompt="box").eval()
        image, truth = picture()
        with torch.inference_mode():
            assert len(model.predict([image], [prompt(truth)])[0]) == 2

    def test_a_folder_that_is_not_there_is_an_error_that_says_where_to_get_one(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"no folder .*nowhere.*segdist weights get facebook/sam2"):
            check(Options(weights=str(tmp_path / "nowhere")))

    def test_weights_of_another_network_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
        (tmp_path / "model.safetensors").touch()
        with pytest.raises(WeightsError, match="must describe a `sam2`"):
            check(Options(weights=str(tmp_path)))


def test_an_image_size_of_broken_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        Options.model_validate({"weights": "random", "image_size": 1000})
