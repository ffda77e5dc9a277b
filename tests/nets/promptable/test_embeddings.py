"""Cached embeddings: the same results, the encoder once an image, and never those of another encoder or image."""

import os
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from segdist import adapters
from segdist.core.errors import SpecError, StorageError
from segdist.core.records import Prompt
from segdist.core.registry import load, load_network
from segdist.core.spec import AdapterSpec
from segdist.nets.promptable import embeddings
from segdist.nets.promptable.embeddings import EmbeddingCache, embeddings_folder
from segdist.testing.pictures import CLASSES, example, picture


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path))


def decoder_only(family: str, embeddings: str) -> Any:
    torch.manual_seed(0)
    declared = load("models", family).FAMILY
    options = declared.options.model_validate({**declared.debug, "image_size": 64, "embeddings": embeddings})
    network = load_network(family).build(options, CLASSES)
    adapters.apply(network, declared, AdapterSpec(kind="frozen_encoder"))
    return network


def counted(network: Any) -> list[int]:
    """Images encoded in each call of the encoder from here on."""
    calls: list[int] = []
    network.encoder_modules[0].register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_a_step_costs_the_same_with_cached_embeddings_and_encodes_each_image_once(family: str) -> None:
    shown = [example(64), example(64, objects=False)]
    expected = decoder_only(family, "compute").train()
    cached = decoder_only(family, "cache").train()
    calls = counted(cached)
    for _ in range(2):
        values = []
        for network in (expected, cached):
            torch.manual_seed(1)
            values.append({name: float(v.detach()) for name, v in network(network.collate(shown)).items()})
        assert values[1] == pytest.approx(values[0], rel=0.02, abs=1e-3)  # half precision
    assert sum(calls) == 1, "both are of the same pixels"


def test_the_decoder_learns_from_cached_embeddings() -> None:
    network = decoder_only("sam", "cache").train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    calls, values = counted(network), []
    for _ in range(12):
        loss = torch.stack(list(network(network.collate([example(64)])).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.8 * values[0]
    assert calls == [1]


def test_predictions_read_what_training_kept() -> None:
    network = decoder_only("sam", "cache").eval()
    image, _ = picture((48, 64))
    calls = counted(network)
    with torch.inference_mode():
        first, second = (network.predict([image], [Prompt()])[0] for _ in range(2))
    assert [i.mask for i in first] == [i.mask for i in second]
    assert calls == [1]


def test_the_encoders_weights_are_read_in_the_process_that_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process forked from it to load images cannot ask its GPU for them."""
    here, digest = os.getpid(), embeddings._digest

    def asked(encoder: Any) -> str:
        assert os.getpid() == here
        return digest(encoder)

    monkeypatch.setattr(embeddings, "_digest", asked)
    network = decoder_only("sam", "cache").train()
    network.prepare_collating()
    shown = [example(64)] * 2
    batches = DataLoader(shown, batch_size=2, collate_fn=network.collate, num_workers=1)  # type: ignore[arg-type,var-annotated]
    for _ in range(2):
        assert sum(map(len, (b["keys"] for b in batches))) == 2


def test_an_encoder_that_was_trained_in_between_has_other_embeddings() -> None:
    network = decoder_only("sam", "cache").train()
    network.prepare_collating()
    network(network.collate([example(64)]))
    assert network.collate([example(64)])["missing"] == []
    with torch.no_grad():
        next(network.encoder_modules[0].parameters()).add_(1.0)
    network.prepare_collating()
    assert network.collate([example(64)])["missing"] == [0]


def test_a_trained_encoder_is_refused_and_the_message_says_what_to_set() -> None:
    network = decoder_only("sam", "cache").train()
    network.image_encoder.requires_grad_(requires_grad=True)
    with pytest.raises(SpecError, match="frozen_encoder"):
        network.collate([example(64)])


def cache(*, seed: int = 0, image_size: int = 64, max_bytes: int = 10**9) -> EmbeddingCache:
    torch.manual_seed(seed)
    return EmbeddingCache([nn.Linear(4, 4)], image_size=image_size, max_bytes=max_bytes)


LEVELS = [torch.arange(6.0).view(2, 3), torch.ones(1)]


def test_what_was_written_is_read_in_half_precision() -> None:
    ours = cache()
    key = ours.key(picture()[0])
    assert ours.read(key) is None
    ours.write(key, LEVELS)
    found = ours.read(key)
    assert found is not None
    assert all(torch.equal(a, b.half()) for a, b in zip(found, LEVELS, strict=True))
    assert (ours.hits, ours.misses) == (1, 1)


@pytest.mark.parametrize("other", [{"seed": 1}, {"image_size": 128}], ids=str)
def test_another_encoder_or_scale_finds_nothing(other: dict[str, int]) -> None:
    key = cache().key(picture()[0])
    cache().write(key, LEVELS)
    assert cache().read(key) is not None
    assert cache(**other).read(key) is None


def test_another_image_has_another_key() -> None:
    image = picture()[0]
    changed = image.copy()
    changed[0, 0, 0] += 1
    keys = {cache().key(i) for i in (image, changed, np.ascontiguousarray(image.transpose(1, 0, 2)))}
    assert len(keys) == 3


def test_a_file_is_a_table_that_other_tools_read() -> None:
    cache().write("a", LEVELS)
    (file,) = embeddings_folder().rglob("*.arrow")
    with pa.ipc.open_file(file) as reader:
        (row,) = reader.read_all().to_batches()
    assert row.column("level_0").type == pa.fixed_shape_tensor(pa.float16(), (2, 3))
    assert row.column("level_0").to_numpy_ndarray().tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]


@pytest.mark.parametrize("kept", [0, 7, 0.5, -9], ids=["empty", "magic-only", "half", "no-footer"])
def test_a_damaged_file_is_computed_anew(kept: float, caplog: pytest.LogCaptureFixture) -> None:
    ours = cache()
    ours.write("a", LEVELS)
    (file,) = embeddings_folder().rglob("*.arrow")
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    assert ours.read("a") is None
    assert "computed anew" in caplog.text
    ours.write("a", LEVELS)
    assert ours.read("a") is not None


def test_the_least_recently_used_go_first(caplog: pytest.LogCaptureFixture) -> None:
    ours = cache()
    for number in range(4):
        ours.write(str(number), LEVELS)
        file = next(embeddings_folder().rglob(f"{number}.arrow"))
        os.utime(file, (number, number))
    size = file.stat().st_size
    assert ours.read("0") is not None  # used just now
    cache(max_bytes=4 * size).write("4", LEVELS)
    left = {file.stem for file in embeddings_folder().rglob("*.arrow")}
    assert {"0", "4"} <= left
    assert "1" not in left
    assert "raise `embeddings_gb`" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEGDIST_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="SEGDIST_CACHE"):
        cache().write("a", LEVELS)


def test_two_trials_that_see_the_same_images_divide_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each asks in the middle of the other's step: the first encodes its half, then the second takes the rest."""
    shown = [replace(example(64), image_HWC=example(64).image_HWC + np.uint8(k)) for k in range(4)]
    first, second = (decoder_only("sam", "cache").train() for _ in range(2))
    batches = [network.collate(shown) for network in (first, second)]
    calls, encode = (counted(first), counted(second)), first.encode

    def interrupted(images_BCHW: torch.Tensor) -> Any:
        found = encode(images_BCHW)
        beside.start()
        while not any(calls[1]):  # the second has encoded what the first has not claimed
            time.sleep(0.001)
        return found

    answers: list[list[torch.Tensor]] = []
    beside = Thread(target=lambda: answers.append(second.features_of(batches[1])))
    monkeypatch.setattr(first, "encode", interrupted)
    answers.append(first.features_of(batches[0]))
    beside.join()
    assert [sum(of_one) for of_one in calls] == [2, 2]
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one, other)
    assert not list(embeddings_folder().rglob("*.claim"))


def test_what_another_trial_claimed_and_never_encoded_is_encoded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_CLAIM_HOLDS", 0.05)
    network = decoder_only("sam", "cache").train()
    batch = network.collate([example(64)])
    calls = counted(network)
    assert network._opened_cache().claim(batch["keys"][0])
    network.features_of(batch)
    assert sum(calls) == 1


def test_an_encoder_that_fails_leaves_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    network = decoder_only("sam", "cache").train()
    batch = network.collate([example(64)])

    def fails(_: torch.Tensor) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(network, "encode", fails)
        with pytest.raises(MemoryError):
            network.features_of(batch)
    calls = counted(network)
    network.features_of(batch)
    assert sum(calls) == 1
