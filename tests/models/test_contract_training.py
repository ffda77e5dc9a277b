"""What every model family promises to those who train it: adapters, hard batches, data-parallel steps, learning."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from segdist import adapters
from segdist.adapters import quantised
from segdist.core.plugins import Batch
from segdist.core.records import Prompt
from segdist.core.spec import AdapterSpec, RunSpec
from segdist.engine import checkpoint
from segdist.engine.fit import fit
from segdist.formats.synthetic import Format, Options
from tests.models.variants import CLASSES, VARIANTS, Variant, crowded, example, picture

_LOG = logging.getLogger(__name__)
LEARNING = [v for v in VARIANTS if v.declared.losses]  # a family may only label
DEBUG = [v for v in LEARNING if v.mode == "debug"]
every_family = pytest.mark.parametrize("variant", DEBUG, ids=str)
# By default each family in one mode and with two adapters; all modes and adapters take minutes.
every_variant = pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=() if v in DEBUG else pytest.mark.slow) for v in LEARNING], ids=str
)
every_kind = pytest.mark.parametrize(
    ("variant", "kind"),
    [
        pytest.param(v, kind, marks=() if v in DEBUG and kind in ("full", "lora") else pytest.mark.slow)
        for v in LEARNING
        for kind in v.declared.adapters
        if v in DEBUG or kind in ("full", "lora")
    ],
    ids=str,
)
BATCHES: dict[str, Callable[[int], list[Any]]] = {
    "none has objects": lambda size: [example(size, objects=False)] * 2,
    "one has objects": lambda size: [example(size, objects=False), example(size)],
    "200 objects": lambda size: [crowded(size), example(size)],
}


@pytest.fixture
def four_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes computes on a CPU as well, slowly: enough to see that the layers fit."""
    monkeypatch.setattr(quantised, "can_quantise", lambda: True)


def adapted(variant: Variant, kind: str, *, seed: int = 0) -> Any:
    network = variant.build(seed)
    adapters.apply(network, variant.declared, AdapterSpec.model_validate({"kind": kind, "rank": 2, "blocks": 1}))
    return network.train()


def backward(variant: Variant, network: Any, batch: Batch) -> torch.Tensor:
    loss = variant.weighted(network(batch))
    torch.autograd.backward(loss)
    return loss.detach()


@every_kind
@pytest.mark.usefixtures("four_bits")
def test_every_parameter_it_says_it_trains_gets_a_gradient_and_no_other(variant: Variant, kind: str) -> None:
    network = adapted(variant, kind)
    trained = adapters.trained_names(network)
    assert_is_what_the_kind_says(variant, kind, network, trained)
    for _ in range(8):  # a mode may choose between prompts, so that not every step uses everything
        backward(variant, network, network.collate([example(variant.options.image_size)]))
        reached = {name for name, p in network.named_parameters() if p.grad is not None}
        if reached == trained:
            break
    assert sorted(trained - reached) == []
    assert sorted(reached - trained) == []


def assert_is_what_the_kind_says(variant: Variant, kind: str, network: Any, trained: frozenset[str]) -> None:
    declared = variant.declared
    assert trained
    in_encoder = {name for name in trained if name.startswith(declared.encoder)}
    rest = {n for n in trained if not n.startswith(declared.lora_trains)}
    all_in_encoder = sum(name.startswith(declared.encoder) for name, _ in network.named_parameters())
    if kind != "full":
        assert len(in_encoder) < all_in_encoder
    if kind == "frozen_encoder":
        assert not in_encoder
    if kind in ("lora", "dora", "qlora", "conv_lora"):
        assert rest
        assert all("lora_" in name for name in rest)
    if kind in ("layernorm", "bitfit"):
        assert rest
        assert all(p.ndim <= 1 for name, p in network.named_parameters() if name in rest)
    if kind == "partial":
        assert in_encoder


@pytest.mark.slow
@every_family
def test_adapters_begin_with_the_outputs_of_the_base(variant: Variant) -> None:
    image, _ = picture()
    prompts = [Prompt()] if not variant.takes_boxes else None
    if prompts is None:
        pytest.skip("shown by the families that need no prompt")
    expected = None
    for kind in ("full", *(k for k in ("lora", "dora", "conv_lora") if k in variant.declared.adapters)):
        network = adapted(variant, kind).eval()
        with torch.inference_mode():
            scores = [i.score for i in network.predict([image], prompts)[0]]
        expected = scores if expected is None else expected
        assert scores == pytest.approx(expected, abs=1e-4), kind


@every_family
@pytest.mark.parametrize("kind", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_a_model_folder_gives_the_trained_model_back(variant: Variant, kind: str, tmp_path: Path) -> None:
    name = variant.family
    run = RunSpec.model_validate(
        {"model": {"family": name, name: dict(variant.declared.debug)}, "train": {"adapter": {"kind": kind, "rank": 2}}}
    )
    network = checkpoint.build(run.model, CLASSES, adapter=run.train.adapter)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    checkpoint.save(network, tmp_path, run, CLASSES)
    again = checkpoint.load(tmp_path)
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.fixture(scope="module")
def group_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone: data-parallel training with all its checks."""
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@every_variant
@pytest.mark.usefixtures("group_of_one")
@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # of 1 x 1 convolutions: slower by a copy, not wrong
def test_data_parallel_training_takes_batches_without_objects_and_with_200(variant: Variant) -> None:
    """Without a search for unused parameters, unless the family declares some: one too many stops the next step."""
    network = variant.build().train()
    exempt = variant.declared.sometimes_unused
    parallel = nn.parallel.DistributedDataParallel(network, find_unused_parameters=bool(exempt))
    for what, made in BATCHES.items():
        network.zero_grad(set_to_none=True)
        loss = backward(variant, parallel, network.collate(made(variant.options.image_size)))
        assert torch.isfinite(loss), what
        trained = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
        missing = [n for n, gradient in trained.items() if gradient is None]
        assert not [n for n in missing if not n.startswith(exempt or ("\0",))], what
        assert all(torch.isfinite(g).all() for g in trained.values() if g is not None), what


@pytest.mark.slow
@pytest.mark.timeout(3600)  # three minutes of the CPU, however long it must share it
@every_family
def test_sixteen_images_are_overfitted_in_three_minutes(variant: Variant) -> None:
    """Mean IoU on the training images themselves, by the engine's own loop."""
    drawings = Format(Options(scene="roofs", count=64, size=64, seed=3))
    few = [
        sample for sample in drawings.read(lambda _: None) if len(sample.instances) <= 4
    ]  # every debug size has room
    rows = [(sample, drawings.image_bytes(sample)) for sample in few[:16]]
    run = RunSpec.model_validate(
        {
            "model": {"family": variant.family, variant.family: dict(variant.declared.debug)},
            "train": {"epochs": 1000, "batch_size": 8, "lr": 2e-3, "augment": [], "schedule": "constant"},
            "evaluate": {"prompts": "box" if variant.takes_boxes else "none", "pictures": 0, "batch_size": 16},
        }
    )
    run = run.override({"train.checkpoint_every": 1000})
    scores: list[float] = []
    start = time.process_time()

    def report(metrics: dict[str, float], _: Path | None) -> None:
        scores.append(metrics["val/iou"])
        if scores[-1] >= 0.9 or time.process_time() - start > 180:
            raise StopIteration

    with suppress(StopIteration):
        fit(run, ("roof",), train=rows * 4, val=rows, report=report)  # scoring what is written takes longer than a step
    seconds = time.process_time() - start
    _LOG.info("%s: IoU %.3f after %d epochs, %.0f CPU-s", variant, max(scores), len(scores), seconds)
    assert max(scores) >= 0.9
