"""Where pretrained weights come from, and what is said where they are not there."""

import json
from pathlib import Path

import fsspec
import pytest

from segdist.core.errors import WeightsError
from segdist.nets.weights import RANDOM, Published, bytes_on_hub, from_hub, local_folder

ANY = Published("mask2former", "mask2former", "facebook/mask2former-swin-tiny-coco-instance", parts=("swin",))


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
    with pytest.raises(WeightsError, match=r"config\.json, but memory://bucket/nothing has none.*segdist weights get"):
        ANY.check("memory://bucket/nothing")
    fill("memory://bucket/other", "detr")
    with pytest.raises(WeightsError, match="must describe a `mask2former`, but says 'detr'"):
        ANY.check("memory://bucket/other")


def test_a_folder_a_hub_name_and_random_are_reported_apart(tmp_path: Path) -> None:
    fill(str(tmp_path))
    assert ANY.source(str(tmp_path)) == tmp_path
    assert local_folder(RANDOM) is None
    assert local_folder("s3://bucket/x") is None
    with pytest.raises(WeightsError, match=r"no folder \./here"):
        ANY.check("./here")


def test_a_hub_that_is_not_reached_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert bytes_on_hub("somebody/weights") == 0
    with pytest.raises(WeightsError, match="hf download somebody/weights --local-dir FOLDER"):
        from_hub("somebody/weights")


def test_a_hub_name_is_fetched_without_what_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(str(tmp_path))
    asked = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert ANY.source("facebook/mask2former-swin-tiny-coco-instance") == tmp_path
    ((name, patterns),) = asked
    assert name == "facebook/mask2former-swin-tiny-coco-instance"
    assert {"config.json", "model.safetensors", "tokenizer.json"} < set(patterns)
    assert not [p for p in patterns if p.endswith((".py", ".bin", ".pt", "*"))]


def shown(folder: Path) -> dict[str, str]:
    with ANY.shown(str(folder)) as seen:
        return {file.name: file.read_text() for file in seen.iterdir()}


def test_files_that_hold_neither_tensors_nor_shapes_nor_words_are_not_shown(tmp_path: Path) -> None:
    fill(str(tmp_path))
    for name in ("adapter_config.json", "modeling_evil.py", "pytorch_model.bin", "generation_config.json", ".metadata",
                 "shard-00000-model-00001-of-00001.safetensors", "adapter_model.safetensors", "chat_template.jinja",
                 "vocab.json", "custom_generate"):  # fmt: skip
        (tmp_path / name).write_text("{}")
    assert shown(tmp_path).keys() == {"config.json", "model.safetensors", "vocab.json"}


def config(folder: Path, **keys: object) -> Path:
    fill(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "mask2former", **keys}))
    return folder


@pytest.mark.parametrize(
    "keys",
    [
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"_attn_implementation": "evil/kernels"},
        {"attn_implementation": "evil/kernels"},
        {"transformers_weights": "../other.safetensors"},
        {"fusion_config": {"patch_embeddings": True}},
        {"name_or_path": "evil/base"},
        {"quantization_config": None, "use_pretrained_backbone": False, "backbone": None},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_keys_of_a_configuration_that_are_no_shape_are_not_shown(keys: dict[str, object], tmp_path: Path) -> None:
    inside = {"backbone_config": {"model_type": "swin", "depths": [1, 2], **keys}}
    said = json.loads(shown(config(tmp_path, **keys, **inside))["config.json"])
    kept = {key: value for key, value in keys.items() if not value}
    assert said == {
        "model_type": "mask2former",
        **kept,
        "backbone_config": {"model_type": "swin", "depths": [1, 2]} | kept,
    }


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "`quantization_config` is"),
        ({"backbone": "evil/backbone"}, "must be described in `backbone_config`, not named, but `backbone` is evil"),
        ({"use_pretrained_backbone": True}, "the weights must hold the backbone"),
        ({"use_timm_backbone": True}, "`use_timm_backbone`"),
        ({"backbone_config": {"backbone": "evil/x"}}, r"`backbone_config\.backbone` is evil/x"),
        ({"backbone_config": {"model_type": "timm_backbone"}}, r"`backbone_config\.model_type` must begin with"),
        ({"backbone_config": {"model_type": ["swin"]}}, r"`backbone_config\.model_type` must begin with"),
        ({"dtype": "float99"}, "`dtype` must be one of float32, bfloat16, float16, but is float99"),
        ({"torch_dtype": "load"}, "`torch_dtype` must be one of"),
        ({"dtype": {"a": "float32"}}, "`dtype` must be one of"),
        ({"hidden_dim": 10**9}, "`hidden_dim` must be at most 1,048,576, but is 1000000000"),
        ({"hidden_dim": -(2**200)}, "`hidden_dim` must be at most"),
        ({"backbone_config": {"depths": [1, 10**9]}}, r"`backbone_config\.depths\.1` must be at most"),
    ],
    ids=lambda v: v[:25] if isinstance(v, str) else next(iter(v)),
)
def test_a_configuration_that_names_other_places_or_no_number_is_refused(
    keys: dict[str, object], rule: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=rule) as caught:
        shown(config(tmp_path, **keys))
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"model_type": NaN}', '{"model_type": "mask2former", "a": Infinity}',
                                  '{"a":' * 10**5, '{"model_type": "mask2former", "a": ' + "[" * 999 + "]" * 999 + "}",
                                  '{"model_type": "mask2former", "a": ' + "9" * 5000 + "}"], ids=range(8))  # fmt: skip
def test_a_configuration_that_is_no_configuration_is_named(text: str, tmp_path: Path) -> None:
    fill(str(tmp_path))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=str(tmp_path)):
        shown(tmp_path)


@pytest.mark.parametrize(
    "map_",
    [None, [], 3, {"a": "../../secret.safetensors"}, {"a": "/etc/passwd"}, {"a": "model-00001-of-00001.safetensors"},
     {"a": 3}, {"a": "pytorch_model.bin"}],
    ids=str,
)  # fmt: skip
def test_an_index_names_files_beside_it_only(map_: object, tmp_path: Path) -> None:
    fill(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": map_}))
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json: `weight_map` must name files"):
        shown(tmp_path)


@pytest.mark.parametrize("kind", ["RagTokenizer", "BertJapaneseTokenizer", 3, ["CLIPTokenizer"], "evil.Tokenizer"])
def test_a_tokenizer_that_is_no_table_is_refused(kind: object, tmp_path: Path) -> None:
    fill(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(WeightsError, match=r"`tokenizer_class` must be one of CLIPTokenizer"):
        shown(tmp_path)


def test_code_and_templates_of_a_tokenizer_are_not_shown(tmp_path: Path) -> None:
    fill(str(tmp_path))
    said = {
        "tokenizer_class": "CLIPTokenizerFast",
        "auto_map": {"AutoTokenizer": ["evil.T", None]},
        "chat_template": "{{",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    assert json.loads(shown(tmp_path)["tokenizer_config.json"]) == {"tokenizer_class": "CLIPTokenizerFast"}
