"""Folders of weights from anywhere, through transformers: no request, no code, no memory beyond the files."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from segdist.core.errors import WeightsError
from segdist.models.mask2former import Options
from segdist.models.mask2former.network import build
from segdist.models.sam3 import PUBLISHED as SAM3
from segdist.models.sam3 import tokens
from segdist.nets import pretrained

CLASSES = ("a", "b")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Whatever opens a connection or looks up a name is kept, and fails the test."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield asked
    assert asked == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "saved"
    torch.manual_seed(1)
    build(Options(weights="random", image_size=64), CLASSES).model.save_pretrained(path)
    return path


def changed(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def load(folder: Path) -> Any:
    return build(Options(weights=str(folder), image_size=64), CLASSES)


def test_what_a_folder_says_beside_its_shape_changes_nothing(folder: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        for where in (config, config["backbone_config"]):
            where |= {
                "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
                "_attn_implementation": "evil/kernels",
                "attn_implementation": "evil/kernels",
                "name_or_path": "evil/base",
                "_name_or_path": "evil/base",
                "transformers_weights": "../elsewhere.safetensors",
                "fusion_config": {"patch_embeddings": True},
            }

    copy = changed(folder, tmp_path, change)
    marker = tmp_path / "it-ran"
    (copy / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/base", "peft_type": "LORA"}))
    (copy / "pytorch_model.bin").write_bytes(b"evil")
    (copy / "shard-00000-model-00001-of-00001.safetensors").write_bytes(b"evil")
    (copy / ".metadata").write_bytes(b"evil")
    found, expected = load(copy).state_dict(), load(folder).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items() if "class_predictor" not in k)
    assert not marker.exists()


ODD: dict[str, Callable[[dict[str, Any]], object]] = {
    "wide": lambda c: c.update(hidden_dim=2**20),
    "wide_backbone": lambda c: c["backbone_config"].update(embed_dim=2**19),
    "deep": lambda c: c.update(decoder_layers=10**6),
    "deep_backbone": lambda c: c["backbone_config"].update(depths=[10**6, 10**6]),
    "zero": lambda c: c.update(hidden_dim=0),
    "negative": lambda c: c.update(hidden_dim=-64),
    "no_heads": lambda c: c.update(num_attention_heads=0),
    "text": lambda c: c.update(hidden_dim="wide"),
    "list": lambda c: c.update(hidden_dim=[64]),
    "null": lambda c: c.update(hidden_dim=None),
    "float": lambda c: c.update(hidden_dim=1e300),
    "no_backbone": lambda c: c.update(backbone_config=3),
    "activation": lambda c: c.update(activation_function="__import__('os')"),
    "labels": lambda c: c.update(id2label=[1, 2]),
    "labels_of_text": lambda c: c.update(id2label={"x": 1}),
    "ratio": lambda c: c["backbone_config"].update(mlp_ratio=1e12),
    "method": lambda c: c.update(to_dict=3),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_shapes_are_errors_that_name_the_weights(case: str, folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, ODD[case])
    with pytest.raises(WeightsError, match=f"{copy}|config.json must describe"):
        load(copy)


def test_many_queries_end_before_they_take_memory(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, lambda c: c.update(num_queries=2**20))
    with pytest.raises(WeightsError, match="must describe what its files hold"):
        load(copy)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_published_kinds_of_numbers_are_read(dtype: str, folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, lambda c: c.update(dtype=dtype))
    state = {k: v.to(getattr(torch, dtype)) for k, v in load_file(folder / "model.safetensors").items()}
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert load(copy) is not None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_cut_weights_are_named(share: float, folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, lambda _: None)
    content = (folder / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=rf"{copy}.*cut off.* bytes\. Fetch it again"):
        load(copy)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"model": {"type": "BPE"}}', '{"version": "1.0", "model": {"type": "Evil"}}'],
    ids=range(5),
)
def test_damaged_tokenizers_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam3"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    tokens.tokenizer("random").save_pretrained(tmp_path)
    assert pretrained.tokenizer(SAM3, str(tmp_path)) is not None
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(WeightsError, match=rf"tokenizer must lie beside the weights {tmp_path}"):
        pretrained.tokenizer(SAM3, str(tmp_path))
