"""Where pretrained weights come from, and what is said where they are not there."""

import json
from pathlib import Path

import fsspec
import pytest

from segdist.errors import WeightsError
from segdist.weights import RANDOM, Published, local_folder

ANY = Published("mask2former", "mask2former", "facebook/mask2former-swin-tiny-coco-instance")


def fill(uri: str, model_type: str = "mask2former") -> None:
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.makedirs(path, exist_ok=True)
    filesystem.pipe_file(f"{path}/config.json", json.dumps({"model_type": model_type}).encode())
    filesystem.pipe_file(f"{path}/model.safetensors", b"weights")


def test_a_uri_is_fetched_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path))
    fill("memory://bucket/swin")
    first = ANY.source("memory://bucket/swin")
    assert isinstance(first, Path)
    assert (first / "model.safetensors").read_bytes() == b"weights"
    assert ANY.source("memory://bucket/swin") == first
    filesystem, path = fsspec.core.url_to_fs("memory://bucket/swin")
    filesystem.pipe_file(f"{path}/model.safetensors", b"better weights")
    second = ANY.source("memory://bucket/swin")
    assert isinstance(second, Path)
    assert (second / "model.safetensors").read_bytes() == b"better weights"


def test_a_uri_without_files_or_with_others_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"config\.json, but memory://bucket/nothing has none.*hf download"):
        ANY.check("memory://bucket/nothing")
    fill("memory://bucket/other", "detr")
    with pytest.raises(WeightsError, match="must describe a `mask2former`, but says 'detr'"):
        ANY.check("memory://bucket/other")


def test_a_folder_a_hub_name_and_random_are_told_apart(tmp_path: Path) -> None:
    fill(str(tmp_path))
    assert ANY.source(str(tmp_path)) == tmp_path
    assert ANY.source("facebook/mask2former-swin-tiny-coco-instance") == "facebook/mask2former-swin-tiny-coco-instance"
    assert local_folder(RANDOM) is None
    assert local_folder("s3://bucket/x") is None
    with pytest.raises(WeightsError, match=r"no folder \./here"):
        ANY.check("./here")
