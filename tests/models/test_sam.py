"""SAM: the same masks as segment-anything's own predictor, weights that fit or say so, prompts of every kind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from segdist.core import masks
from segdist.core.errors import WeightsError
from segdist.core.records import Prompt, Rle
from segdist.models.sam import FAMILY, Options, architecture
from segdist.models.sam.network import SegmentAnything, build
from segdist.testing.pictures import CLASSES, example, picture, prompt


def options(**values: Any) -> Options:
    return Options.model_validate({"size": "tiny", "weights": "random", "image_size": 64, **values})


def small_vit() -> Sam:
    """The published architecture with few channels."""
    return architecture._build_sam(architecture._image_encoder(64, width=32, depth=2, heads=2, global_blocks=(1,)))


def as_published(sam: Sam) -> Sam:
    """The same weights in segment-anything's own modules only, its own mask decoder among them."""
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        transformer_dim=256,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    decoder.load_state_dict(sam.mask_decoder.state_dict())
    prompts = PromptEncoder(embed_dim=256, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16)
    prompts.load_state_dict(sam.prompt_encoder.state_dict())
    return Sam(sam.image_encoder, prompts, decoder).eval()


def predicted(sam: Sam, image: np.ndarray, asked: Prompt, *, multimask: bool) -> list[tuple[Rle, float]]:
    """What `SamPredictor` says, one box at a time, as its users call it."""
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    found = []
    for n, box in enumerate(asked.boxes_xyxy):
        points = np.array(asked.points_xy[n]) if asked.points_xy else None
        kinds = np.array(asked.point_is_object[n], int) if asked.points_xy else None
        masks_MHW, iou_M, _ = predictor.predict(points, kinds, np.array(box), multimask_output=multimask)
        best = int(iou_M.argmax())
        found.append((masks.encode(masks_MHW[best]), float(np.clip(iou_M[best], 0, 1))))
    return found


@pytest.mark.parametrize("mode", ["one", "best_of_three"])
@pytest.mark.parametrize("size_hw", [(48, 64), (150, 90), (40, 40)], ids=str)
@pytest.mark.parametrize("make", [small_vit, lambda: architecture.tiny(64)], ids=["vit", "tiny"])
@pytest.mark.parametrize("with_points", [False, True], ids=["boxes", "boxes_and_points"])
def test_masks_are_those_of_segment_anythings_own_predictor(
    make: Any, size_hw: tuple[int, int], mode: str, with_points: bool
) -> None:
    torch.manual_seed(0)
    sam = make().eval()
    image, truth = picture(size_hw)
    height, width = size_hw
    asked = Prompt(
        (*prompt(truth).boxes_xyxy, (0.0, 0.0, float(width), float(height)), (3.4, 7.7, 20.2, 31.9)),
        (*truth, "disc", "bar"),
    )
    if with_points:
        points = (((width / 3, height / 2),), ((5.0, 6.0), (9.5, 3.0)), ((1.0, 1.0),), ((4.0, 9.0),))
        asked = replace(asked, points_xy=points, point_is_object=((True,), (True, False), (False,), (True,)))
    reference = sam if make is not small_vit else as_published(sam)
    expected = predicted(reference, image, asked, multimask=mode == "best_of_three")
    network = SegmentAnything(options(masks=mode, size="vit_b" if make is small_vit else "tiny"), CLASSES, sam).eval()
    with torch.inference_mode():
        (found,) = network.predict([image], [asked])
    for instance, (rle, score) in zip(found, expected, strict=True):
        assert instance.mask == rle
        assert instance.score == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_published_checkpoints_fit_without_a_tensor_left_over(size: str) -> None:
    with torch.device("meta"):
        ours = getattr(architecture, size)().state_dict()
        theirs = sam_model_registry[size]().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_prompts_beyond_one_pass_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdist.nets.promptable.segmenter.PROMPTS_AT_ONCE", 3)
    network = build(options(), CLASSES).eval()
    image, _ = picture()
    boxes = tuple((float(x), 0.0, float(x + 10), 20.0) for x in range(8))
    with torch.inference_mode():
        (found,) = network.predict([image], [Prompt(boxes, ("bar",) * 8)])
    assert [i.box_xyxy for i in found] == list(boxes)


def test_images_without_boxes_beside_images_with_boxes_come_back_empty() -> None:
    network = build(options(), CLASSES).eval()
    image, truth = picture()
    with torch.inference_mode():
        found = network.predict([image, image, image], [Prompt(), prompt(truth), Prompt()])
    assert [len(f) for f in found] == [0, 2, 0]


def test_the_encoder_runs_once_for_all_images_and_prompts() -> None:
    network = build(options(), CLASSES).eval()
    calls = []
    network.image_encoder.register_forward_hook(lambda _, args, __: calls.append(args[0].shape[0]))
    image, truth = picture()
    with torch.inference_mode():
        network.predict([image] * 3, [prompt(truth)] * 3)
    assert calls == [3]


def test_a_step_draws_no_more_prompts_from_an_image_than_allowed() -> None:
    network = build(options(prompts_per_image=1), CLASSES)
    batch = network.collate([example(64)] * 3)
    assert batch["image_of_prompt"].tolist() == [0, 1, 2]
    assert len(batch["boxes"]) == len(batch["masks"]) == 3


def test_class_prompts_teach_one_mask_a_class_also_where_the_class_is_absent() -> None:
    network = build(options(prompt="class"), CLASSES)
    batch = network.collate([example(64), example(64, objects=False)])
    assert batch["masks"].shape == (4, 64, 64)
    assert batch["masks"].flatten(1).any(1).tolist() == [True, True, False, False]


def test_a_box_shown_as_mask_is_one_inside_and_minus_one_outside() -> None:
    shown = architecture._filled(torch.tensor([[8.0, 16.0, 32.0, 64.0]]), (16, 16), (64, 64))[0, 0]
    assert (shown[4:, 2:8] == 1).all()
    assert (shown[:4] == -1).all()
    assert (shown[:, 8:] == -1).all()


def test_weights_of_other_image_sizes_are_fitted_by_resizing_the_position_tables(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in architecture.tiny(64).state_dict().items()}, file)
    network = build(options(weights=str(file), image_size=96), CLASSES).eval()
    image, truth = picture()
    with torch.inference_mode():
        assert len(network.predict([image], [prompt(truth)])[0]) == 2


def test_half_precision_weights_load_as_float32(tmp_path: Path) -> None:
    sam = architecture.tiny(64)
    file = tmp_path / "tiny.safetensors"
    save_file({k: v.half().contiguous() for k, v in sam.state_dict().items()}, file)
    network = build(options(weights=str(file)), CLASSES)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_missing_file_of_a_published_size_is_named_with_where_to_get_it() -> None:
    with pytest.raises(WeightsError, match=r"be named for vit_l.*segdist weights get sam_vit_l`"):
        FAMILY.check(Options.model_validate({"size": "vit_l"}))
    with pytest.raises(WeightsError, match=r"nowhere/b\.pth.*segdist weights get sam_vit_b`"):
        FAMILY.check(Options.model_validate({"size": "vit_b", "weights": "nowhere/b.pth"}))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "vit.pth"
    torch.save(small_vit().state_dict(), file)
    with pytest.raises(WeightsError, match=r"vit\.pth must hold the weights of `size: tiny`"):
        build(options(weights=str(file)), CLASSES)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a pickle ran code",))


@pytest.mark.parametrize("content", ["garbage", "pickle", "list"])
def test_files_that_are_no_weights_are_refused_and_run_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file = tmp_path / "weights.pth"
    if content == "garbage":
        file.write_bytes(b"not a checkpoint")
    else:
        torch.save(_Evil() if content == "pickle" else [torch.zeros(1)], file)
    with pytest.raises(WeightsError, match=r"weights\.pth must"):
        build(options(weights=str(file)), CLASSES)
    assert "ran code" not in capsys.readouterr().out


@pytest.mark.parametrize(("size", "expected"), [("tiny", 128), ("vit_b", 1024)])
def test_the_image_size_follows_the_network_unless_given(size: str, expected: int) -> None:
    assert Options.model_validate({"size": size, "weights": "random"}).image_size == expected


def test_an_image_size_of_broken_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        Options.model_validate({"size": "vit_b", "image_size": 1000})


def test_masks_keep_to_their_boxes_and_answers_to_moved_boxes_are_averaged_on_request() -> None:
    image, truth = picture()
    boxes = prompt(truth).boxes_xyxy
    asked = Prompt(boxes_xyxy=boxes, labels=(CLASSES[0],) * 2)
    found = {}
    for name in ("", "fit_box", "average_boxes"):
        network = build(Options.model_validate({name: True} if name else {}), CLASSES).eval()
        with torch.inference_mode():
            (found[name],) = network.predict([image], [asked])
    for instance, box in zip(found["fit_box"], boxes, strict=True):
        assert instance.mask is not None
        assert instance.mask.area
        x1, y1, x2, y2 = instance.mask.box_xyxy
        assert (x1, y1) >= box[:2]
        assert x2 <= box[2]
        assert y2 <= box[3]
    for plain, averaged in zip(found[""], found["average_boxes"], strict=True):
        assert averaged.evidence is not None
        assert plain.evidence is not None
        assert averaged.evidence.stability is not None
        assert 0 < averaged.evidence.stability <= 1
        assert averaged.evidence.stability != plain.evidence.stability
