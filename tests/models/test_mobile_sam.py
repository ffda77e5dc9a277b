"""SAM's `vit_t`: the published weights in both of their forms, and the answers of the published graphs."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from segdist.core.errors import WeightsError
from segdist.models.sam import FAMILY, Options, architecture
from segdist.models.sam.network import build
from segdist.models.sam.tiny_vit import from_published

SIZE = 64


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
    with pytest.raises(WeightsError, match=r"tiny\.pt must hold the weights of `size: vit_t`.*mobile_sam\.pt"):
        build(options(weights=str(file)), ("wall",))
    with pytest.raises(WeightsError, match=r"mobile_sam\.pt"):
        FAMILY.check(options(weights="shipped"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"encoder\.onnx cannot be read"), (b"\xff" * 64, "is damaged"), (b"", "holds no"), ("other", "holds no")],
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
