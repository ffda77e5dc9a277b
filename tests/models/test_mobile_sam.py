"""SAM's `vit_t`: the published weights in both of their forms, and the answers of the published graphs."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from segdist.core import masks
from segdist.core.errors import SpecError, WeightsError
from segdist.core.published import PublishedWeights
from segdist.core.records import Prompt
from segdist.models.sam import FAMILY, PUBLISHED, Options, architecture
from segdist.models.sam.network import build
from segdist.models.sam.tiny_vit import from_published
from segdist.reading.examples import letterbox

SIZE = 64
FACADES = Path("../shared/data/facades/valid")


def options(**values: Any) -> Options:
    return Options.model_validate({"size": "vit_t", "weights": "random", **values})


def published() -> tuple[Any, dict[str, Tensor]]:
    """An encoder with batch norms that have seen images, and its tensors under the names of `mobile_sam.pt`."""
    torch.manual_seed(0)
    body: Any = timm.create_model("tiny_vit_5m_224", drop_path_rate=0.0)
    body.stages[-1].downsample.conv2.conv.stride = (1, 1)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return body.eval(), {f"image_encoder.{_published(name)}": value for name, value in body.state_dict().items()}


def _published(name: str) -> str:
    name = name.replace(".conv.weight", ".c.weight")
    name = name.replace("patch_embed.conv1.", "patch_embed.seq.0.").replace("patch_embed.conv2.", "patch_embed.seq.2.")
    name = name.replace("head.norm.", "norm_head.").replace("head.fc.", "head.")
    if name.startswith("stages."):
        _, stage, rest = name.split(".", 2)
        name = f"layers.{int(stage) - rest.startswith('downsample.')}.{rest}"
    return name


def test_published_weights_give_the_features_of_the_network_before_its_batch_norms_were_folded() -> None:
    body, state = published()
    encoder: Any = architecture.vit_t(SIZE).image_encoder.eval()
    folded = {name.removeprefix("image_encoder."): value for name, value in from_published(state).items()}
    left = encoder.load_state_dict(folded, strict=False)
    assert not left.unexpected_keys
    assert all(name.startswith("neck.") for name in left.missing_keys)
    images_BCHW = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected_BCHW = body.forward_features(images_BCHW)
        found_BCHW = encoder.stages(encoder.patch_embed(images_BCHW))
    assert expected_BCHW.shape == (2, 320, SIZE // 16, SIZE // 16)
    torch.testing.assert_close(found_BCHW, expected_BCHW, atol=1e-4, rtol=1e-4)


def test_a_published_file_fills_the_whole_network(tmp_path: Path) -> None:
    _, encoder = published()
    rest = {n: v for n, v in architecture.vit_t(1024).state_dict().items() if not n.startswith("image_encoder.p")}
    rest = {n: v for n, v in rest.items() if not n.startswith("image_encoder.stages.")}
    file = tmp_path / "mobile_sam.pt"
    torch.save({**rest, **encoder}, file)
    network = build(options(weights=str(file), image_size=SIZE), ("wall",))
    assert network.image_encoder.neck[0].weight.equal(rest["image_encoder.neck.0.weight"])


def test_weights_of_another_size_name_the_size_and_where_to_get_them(tmp_path: Path) -> None:
    file = tmp_path / "tiny.pt"
    torch.save(architecture.tiny(64).state_dict(), file)
    how = "segdist weights get mobile_sam`"
    with pytest.raises(WeightsError, match=rf"tiny\.pt must hold the weights of `size: vit_t`.*{how}"):
        build(options(weights=str(file)), ("wall",))
    with pytest.raises(WeightsError, match=how):
        FAMILY.check(options(weights="shipped"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"must hold encoder\.onnx and sam\.onnx"),
        (b"\xff" * 64, "cut off or damaged: it has 64 bytes"),
        (b"", "holds no"),
        ("other", "holds no"),
    ],
    ids=["missing", "garbage", "empty", "another_graph"],
)
def test_graphs_that_are_not_those_of_mobile_sam_are_named(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    if content == "other":
        onnx = pytest.importorskip("onnx")
        graph = onnx.helper.make_graph([], "nothing", [], [])
        content = onnx.helper.make_model(graph).SerializeToString()
    if content is not None:
        for name in ("encoder.onnx", "sam.onnx"):
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else b"")
    with pytest.raises(WeightsError, match=message):
        build(options(weights=str(tmp_path)), ("wall",))


@pytest.fixture(scope="module")
def graphs() -> PublishedWeights:
    (found,) = (one for one in PUBLISHED if one.name == "mobile_sam_onnx")
    if not found.is_here:
        pytest.skip("the published graphs are not here: make weights")
    pytest.importorskip("onnx")
    return found


@pytest.mark.parametrize(
    ("images", "boxes_each"), [(2, 5), pytest.param(5, 20, marks=pytest.mark.slow)], ids=["10", "100"]
)
def test_photographs_get_the_answers_of_the_published_graphs(
    images: int, boxes_each: int, graphs: PublishedWeights
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = 1
    encoder, decoder = (
        runtime.InferenceSession(str(graphs.place / name), settings, providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "sam.onnx")
    )
    network = build(options(weights=graphs.name, masks="best_of_three"), ("wall",)).eval()
    compared = 0
    for photograph, boxes in photographs(images, boxes_each):
        pixels_1CSS = network.images_of([letterbox(photograph, 1024)])["images"]
        expected_1CGG = encoder.run(None, {"input": pixels_1CSS.numpy()})[0]
        with torch.inference_mode():
            found_1CGG = network.image_encoder(pixels_1CSS).numpy()
            (answers,) = network.predict([photograph], [Prompt(boxes_xyxy=boxes, labels=("wall",) * len(boxes))])
        np.testing.assert_allclose(found_1CGG, expected_1CGG, atol=1e-3)
        for answer, box in zip(answers, boxes, strict=True):
            assert answer.mask is not None
            expected_HW = answer_of(decoder, expected_1CGG, box, photograph.shape[:2])
            mask_HW = masks.decode(answer.mask) > 0
            assert expected_HW.any()
            assert (mask_HW & expected_HW).sum() / (mask_HW | expected_HW).sum() >= 0.99, box
            compared += 1
    assert compared == images * boxes_each


def photographs(count: int, boxes_each: int) -> list[tuple[NDArray[np.uint8], tuple[Any, ...]]]:
    """RGB images of street facades, and boxes of objects in each, (x, y, x, y)."""
    if not FACADES.is_dir():
        pytest.skip(f"there are no photographs in {FACADES}")
    (annotations,) = FACADES.glob("*.json")
    content: dict[str, list[dict[str, Any]]] = json.loads(annotations.read_text("utf-8"))
    found: list[tuple[NDArray[np.uint8], tuple[Any, ...]]] = []
    for image in content["images"]:
        drawn = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"] and min(a["bbox"][2:]) > 2]
        if len(drawn) >= boxes_each and (FACADES / image["file_name"]).is_file() and len(found) < count:
            boxes = tuple((x, y, x + width, y + height) for x, y, width, height in drawn[:boxes_each])
            found.append((np.array(Image.open(FACADES / image["file_name"]).convert("RGB")), boxes))
    return found


def answer_of(decoder: Any, embedding_1CGG: Any, box: tuple[float, ...], size_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask of a box, by the published graph."""
    scale = 1024 / max(size_hw)
    across, down = (int(side * scale + 0.5) / side for side in (size_hw[1], size_hw[0]))
    corners = np.array([[[box[0] * across, box[1] * down], [box[2] * across, box[3] * down]]], np.float32)
    logits_11HW = decoder.run(
        None,
        {
            "image_embeddings": embedding_1CGG,
            "point_coords": corners,
            "point_labels": np.array([[2, 3]], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array(size_hw, np.float32),
        },
    )[0]
    return np.asarray(logits_11HW[0, 0] > 0)


def test_the_name_of_published_weights_says_their_size() -> None:
    named = Options.model_validate({"weights": "sam_vit_b"})
    assert (named.size, named.image_size) == ("vit_b", 1024)
    with pytest.raises(ValueError, match=r"`weights: mobile_sam` must go with `size: vit_t`, but got vit_b"):
        Options.model_validate({"size": "vit_b", "weights": "mobile_sam"})


@pytest.mark.parametrize(
    ("library", "extra", "weights"), [("timm", "encoders", "random"), ("onnx", "onnx", "mobile_sam_onnx")]
)
def test_a_library_that_is_not_installed_is_named_before_anything_starts(
    library: str, extra: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setenv("SEGDIST_DOWNLOAD_WEIGHTS", "1")
    with pytest.raises(SpecError, match=rf"`{library}`.*segdist\[{extra}\]"):
        FAMILY.check(options(weights=weights))


def test_graphs_of_which_one_is_missing_are_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"must hold sam\.onnx, but does not"):
        FAMILY.check(Options(size="vit_t", weights=str(tmp_path)))
    with pytest.raises(WeightsError, match=r"must be the folder with encoder\.onnx and sam\.onnx"):
        FAMILY.check(Options(size="vit_t", weights=str(tmp_path / "encoder.onnx")))
    (tmp_path / "sam.onnx").write_bytes(b"")
    FAMILY.check(Options(size="vit_t", weights=str(tmp_path)))
