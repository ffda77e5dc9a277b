"""A model folder gives the model back to the bit, or an error that names the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segdist.core.errors import WeightsError
from segdist.core.records import Instance, Prompt
from segdist.core.spec import RunSpec
from segdist.engine import checkpoint
from segdist.reading.examples import decode_image
from tests.engine.drawn import CLASSES, roofs, tiny_run

FULL: dict[str, Any] = {"kind": "full"}
LORA: dict[str, Any] = {"kind": "lora", "rank": 2}
FROZEN: dict[str, Any] = {"kind": "frozen_encoder"}
IMAGES = [decode_image(image_bytes) for _, image_bytes in roofs(2, size=48)]


def trained(run: RunSpec) -> Any:
    """A model whose trained weights are no longer those it was built with."""
    network = checkpoint.build(run.model, CLASSES, adapter=run.train.adapter, seed=run.seed)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def found(network: Any) -> list[tuple[Instance, ...]]:
    with torch.inference_mode():
        return list(network.predict(IMAGES, [Prompt()] * len(IMAGES)))


def saved(adapter: dict[str, Any], folder: Path) -> Any:
    run = tiny_run(adapter=adapter)
    network = trained(run)
    checkpoint.save(network, folder, run, CLASSES)
    return network


@pytest.mark.parametrize("saves_all", [True, False], ids=["with_base", "without_base"])
@pytest.mark.parametrize("adapter", [FULL, LORA, FROZEN], ids=lambda a: a["kind"])
def test_a_model_saved_and_loaded_predicts_the_same_bits(
    adapter: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, saves_all: bool
) -> None:
    if not saves_all:
        monkeypatch.setattr(checkpoint, "SELF_CONTAINED_BYTES", 0)
    network = saved(adapter, tmp_path / "model")
    torch.manual_seed(123)
    again = checkpoint.load(tmp_path / "model")
    assert not again.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert found(again) == found(network)
    assert any(found(network)), "something is found, so that there is something to compare"


def test_random_frozen_weights_that_are_left_out_are_drawn_again_with_the_same_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SELF_CONTAINED_BYTES", 0)
    run = tiny_run(adapter=FROZEN).override({"seed": 7})
    network = trained(run)
    checkpoint.save(network, tmp_path, run, CLASSES)
    assert found(checkpoint.load(tmp_path)) == found(network)


def test_the_description_says_what_was_trained(tmp_path: Path) -> None:
    saved(LORA, tmp_path)
    description = checkpoint.describe(tmp_path)
    run = tiny_run(adapter=LORA)
    assert description.model == run.model
    assert description.adapter == run.train.adapter
    assert (description.classes, description.evaluate) == (CLASSES, run.evaluate)


@pytest.mark.parametrize("adapter", [LORA, FROZEN], ids=lambda a: a["kind"])
def test_large_frozen_weights_stay_out_of_the_file(
    adapter: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(adapter, tmp_path / "small")
    assert checkpoint.describe(tmp_path / "small").frozen_digest == ""
    monkeypatch.setattr(checkpoint, "SELF_CONTAINED_BYTES", 0)
    network = saved(adapter, tmp_path / "large")
    in_file = load_file(tmp_path / "large" / checkpoint.WEIGHTS).keys()
    assert in_file == {name for name, p in network.named_parameters() if p.requires_grad}
    assert checkpoint.describe(tmp_path / "large").frozen_digest
    assert load_file(tmp_path / "small" / checkpoint.WEIGHTS).keys() == network.state_dict().keys()


def test_a_model_on_other_base_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SELF_CONTAINED_BYTES", 0)
    saved(LORA, tmp_path)
    run = tiny_run(adapter=LORA)
    digest = checkpoint.describe(tmp_path).frozen_digest
    checkpoint.restore(checkpoint.build(run.model, CLASSES, adapter=run.train.adapter), tmp_path, frozen_digest=digest)
    other = checkpoint.build(run.model, CLASSES, adapter=run.train.adapter, seed=1)
    with pytest.raises(WeightsError, match=r"the base weights .* are not those it was trained with") as error:
        checkpoint.restore(other, tmp_path, frozen_digest=digest)
    assert checkpoint.WEIGHTS in str(error.value)


def test_a_folder_without_description_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"{tmp_path} is not a segdist model: it has no model\.json"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", ["", '{"schema_version": 1, "mod', "{}", "[]", '{"model": {"family": 3}}'])
def test_a_damaged_description_is_named(content: str, tmp_path: Path) -> None:
    saved(FULL, tmp_path)
    (tmp_path / checkpoint.DESCRIPTION).write_text(content)
    with pytest.raises(WeightsError, match=str(tmp_path / checkpoint.DESCRIPTION)):
        checkpoint.load(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    saved(FULL, tmp_path)
    (tmp_path / checkpoint.WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=rf"{tmp_path} has no weights\.safetensors"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_cut_weights_are_named(share: float, tmp_path: Path) -> None:
    saved(FULL, tmp_path)
    file = tmp_path / checkpoint.WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=f"{file} must be a safetensors file, but is cut off or damaged"):
        checkpoint.load(tmp_path)


WIDER = {"family": "unet_cbam", "unet_cbam": {"image_size": 32, "width": 16}}


@pytest.mark.parametrize(("key", "value"), [("model", WIDER), ("classes", [])])
def test_weights_of_another_shape_than_described_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    saved(FULL, tmp_path)
    file = tmp_path / checkpoint.DESCRIPTION
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(WeightsError, match=r"weights\.safetensors does not fit the model it describes"):
        checkpoint.load(tmp_path)


def test_the_digest_changes_with_names_and_values() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(()), "c": torch.ones(2, dtype=torch.bfloat16)}
    digest = checkpoint.digest_of(state)
    assert digest == checkpoint.digest_of(dict(reversed(state.items())))
    assert digest != checkpoint.digest_of({**state, "a": torch.full((2, 3), 1e-30)})
    assert digest != checkpoint.digest_of({"x": state["a"], "b": state["b"], "c": state["c"]})


def test_frozen_weights_are_hashed_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SELF_CONTAINED_BYTES", 0)
    calls, digest_of = list[int](), checkpoint.digest_of

    def counting(state: Mapping[str, torch.Tensor]) -> str:
        calls.append(len(state))
        return digest_of(state)

    monkeypatch.setattr(checkpoint, "digest_of", counting)
    run = tiny_run()
    network = checkpoint.build(run.model, CLASSES)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head"))

    def saved(name: str) -> str:
        checkpoint.save(network, tmp_path / name, run, CLASSES)
        return checkpoint.describe(tmp_path / name).frozen_digest

    first = saved("first")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("head"):
                parameter.add_(1)
    assert saved("second") == first
    checkpoint.restore(network, tmp_path / "first", frozen_digest=first)
    assert len(calls) == 1
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert saved("third") != first
    with pytest.raises(WeightsError, match="does not fit"):
        checkpoint.restore(network, tmp_path / "first", frozen_digest=first)
    assert len(calls) == 2
