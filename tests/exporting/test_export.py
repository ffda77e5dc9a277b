"""What is exported computes what was trained: merged, alone, and in other runtimes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segdist.core.errors import ExportError
from segdist.core.plugins import declaration
from segdist.engine import checkpoint
from segdist.exporting import card, export, onnx_graph
from segdist.exporting.card import Origin
from segdist.formats.synthetic.scenes import draw
from tests.engine.shipped import CLASSES, model_folder

IMAGES = [draw("roofs", 3, 80)[0], draw("rooms", 4, 80)[0][:50]]


def outputs(network: Any) -> list[Tensor]:
    with torch.inference_mode():
        return list(network.outputs(network.pixels(IMAGES)))


@pytest.mark.parametrize(
    ("family", "adapter"), [("unet_cbam", "full"), ("unet_cbam", "lora"), ("sam", "lora"), ("segformer", "lora")]
)
def test_a_merged_model_alone_computes_what_the_trained_one_did(tmp_path: Path, family: str, adapter: str) -> None:
    trained = model_folder(tmp_path / "trained", family, adapter=adapter)
    before = outputs(checkpoint.load(trained))

    network, description = export.load_merged(trained)
    export.write(network, description, tmp_path / "out")

    written = checkpoint.describe(tmp_path / "out")
    assert written.adapter.kind == "full"
    assert written.frozen_digest == "", "nothing is to be fetched from elsewhere"
    alone = checkpoint.load(tmp_path / "out")
    assert not any("lora" in name for name in alone.state_dict())
    for a, b in zip(outputs(alone), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_weights_from_a_folder_of_transformers_come_along_so_that_the_folder_may_go(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = tmp_path / "source"
    checkpoint.build(
        checkpoint.describe(model_folder(tmp_path / "seed", "mask2former")).model, CLASSES
    ).model.save_pretrained(source)  # type: ignore[union-attr, operator]
    (tmp_path / "secret").write_text("{}")
    for name in ("preprocessor_config.json", "notes.txt", "adapter_config.json", "vocab.json"):
        (source / name).write_text("{}")
    (source / "added_tokens.json").symlink_to(tmp_path / "secret")
    trained = model_folder(tmp_path / "trained", "mask2former", weights=str(source), adapter="lora")
    before = outputs(checkpoint.load(trained, trusted=True))
    network, description = export.load_merged(trained, trusted=True)
    export.write(network, description, tmp_path / "out", base=".")
    source.rename(tmp_path / "gone")
    model = {"config.json", "model.json", "model.safetensors", "weights.safetensors"}
    assert {f.name for f in (tmp_path / "out").iterdir()} == {*model, "preprocessor_config.json", "vocab.json"}

    alone = checkpoint.load(tmp_path / "out")
    for a, b in zip(outputs(alone), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    theirs = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    with torch.inference_mode():
        found = theirs(alone.pixels(IMAGES))  # type: ignore[operator]
    torch.testing.assert_close(found.class_queries_logits, before[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "batch"),
    [("unet_cbam", 0), ("sam", 1), ("segformer", 0), pytest.param("mask2former", 0, marks=pytest.mark.slow)],
)
def test_the_onnx_graph_computes_what_torch_does(tmp_path: Path, family: str, batch: int) -> None:
    pytest.importorskip("onnxruntime")
    network: Any = checkpoint.load(model_folder(tmp_path / "trained", family))
    file = tmp_path / "model.onnx"
    parity = onnx_graph.write(network, declaration(family), file)
    assert parity.batch == batch
    assert max(parity.max_difference.values()) < 1e-3
    assert parity.smallest_iou >= 0.99

    run = onnx_graph.session(file)  # a picture that the export did not look at
    pixels = network.pixels(IMAGES[1:])
    for mine, theirs in zip(run(pixels.numpy()), network.outputs(pixels), strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-3, atol=1e-4)


def test_a_graph_that_computes_something_else_is_refused_and_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    network: Any = checkpoint.load(model_folder(tmp_path / "trained", "unet_cbam"))
    honest = onnx_graph.session
    monkeypatch.setattr(onnx_graph, "session", lambda file: lambda pixels: [v + 0.01 for v in honest(file)(pixels)])
    with pytest.raises(ExportError, match="does not compute what torch does"):
        onnx_graph.write(network, declaration("unet_cbam"), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_that_waits_for_boxes_says_that_it_has_no_graph(tmp_path: Path) -> None:
    network: Any = checkpoint.load(model_folder(tmp_path / "trained", "sam", prompt="box"))
    with pytest.raises(ExportError, match="prompt: class"):
        onnx_graph.write(network, declaration("sam"), tmp_path / "model.onnx")


def test_the_card_names_data_licences_metrics_and_use(tmp_path: Path) -> None:
    description = checkpoint.describe(model_folder(tmp_path / "trained", "unet_cbam"))
    origin = Origin(
        name="roofs",
        question="Where are the roofs?",
        run_id="0" * 32,
        data_hash="0123456789abcdef",
        splits={"train": 8, "test": 2},
        licences=("CC BY 4.0",),
        metrics={"val/iou": 0.5, "test/iou": 0.4321},
    )
    text = card.card(description, origin, form="Run it.", hub=True)
    front = text.split("---")[1]
    for said in ("0123456789abcdef", "CC BY 4.0", "| IoU | 0.5000 | 0.4321 |", "Where are the roofs?", "roof, tree"):
        assert said in text
    import yaml

    assert yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.4321
    unknown = card.card(description, Origin(), form="Run it.")
    assert "not recorded" in unknown
    assert "find out before you ship" in unknown
    json.dumps(description.to_json())


def test_a_network_that_cannot_be_built_without_its_weights_is_not_exported_without_them(tmp_path: Path) -> None:
    trained = model_folder(tmp_path / "trained", "paligemma")
    network, description = export.load_merged(trained)
    options = {**description.model.family_options(), "weights": "google/paligemma2-3b-pt-224"}
    named = replace(description, model=description.model.model_copy(update={"paligemma": options}))
    with pytest.raises(ExportError, match="cannot be built without google/paligemma2-3b-pt-224"):
        export.write(network, named, tmp_path / "out")
    assert not (tmp_path / "out").exists()
