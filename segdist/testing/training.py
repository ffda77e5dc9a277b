"""What a model family promises to those who train it: adapters, hard batches, data-parallel steps, learning."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import ClassVar

import pytest
import torch
from torch import distributed, nn

from segdist import adapters
from segdist.adapters import quantised
from segdist.core.plugins import Batch, Example
from segdist.core.records import Prompt
from segdist.core.spec import AdapterSpec, PhaseSpec, RunSpec
from segdist.engine import checkpoint
from segdist.engine.fit import fit
from segdist.engine.packs import Pack
from segdist.engine.schedule import adamw
from segdist.engine.shares import shares
from segdist.engine.workers import Workers
from segdist.formats.synthetic import Format, Options
from segdist.nets.segmenter import Segmenter
from segdist.testing.pictures import CLASSES, crowded, example, picture
from segdist.testing.variants import FamilyTests, Variant

_LOG = logging.getLogger(__name__)
BATCHES: dict[str, Callable[[int], list[Example]]] = {
    "none has objects": lambda size: [example(size, objects=False)] * 2,
    "one has objects": lambda size: [example(size, objects=False), example(size)],
    "200 objects": lambda size: [crowded(size), example(size)],
}
STEPS = (
    ("none has objects", "none has objects"),
    ("none has objects", "200 objects"),
    ("one has objects", "none has objects"),
    ("200 objects", "200 objects"),
)
"""What the first and the second worker see in each step."""


class TrainingContract(FamilyTests):
    """What the engine's loop may rely on."""

    bound_to_batches: ClassVar[Mapping[str, Collection[str]]] = {}
    """By family, terms that depend on which images a batch holds, as one that compares images does."""

    @pytest.fixture
    def four_bits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bitsandbytes computes on a CPU as well, slowly: enough to see that the layers fit."""
        monkeypatch.setattr(quantised, "can_quantise", lambda: True)

    @pytest.mark.usefixtures("four_bits")
    def test_every_parameter_it_says_it_trains_gets_a_gradient_and_no_other(self, variant: Variant, kind: str) -> None:
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

    def test_the_terms_of_a_batch_are_those_of_its_parts_by_their_shares(
        self, debug: Variant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By what `divisors` says, so that neither micro-batches nor workers change what is learned."""
        monkeypatch.setattr(torch, "rand", _even)
        size, network = debug.options.image_size, debug.build().eval()  # no dropout; batch norms see single images
        seen = [example(size), example(size, objects=False), example(size, standing=True), _half_ignored(size)]
        with torch.inference_mode():
            torch.manual_seed(0)  # modes may choose prompts
            whole = {name: float(value) for name, value in network(network.collate(seen)).items()}
            torch.manual_seed(0)
            parts = [network.collate(part) for part in (seen[:1], seen[1:])]
            found = dict.fromkeys(whole, 0.0)
            for part, share in zip(parts, shares(network, parts, [1, 3], workers=Workers()), strict=True):
                for name, value in network(part).items():
                    found[name] += share(name) * float(value)
        assert whole
        for name in whole.keys() - set(self.bound_to_batches.get(debug.family, ())):
            assert found[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-6), name

    def test_rates_rise_from_the_encoders_first_layers_to_its_last(self, debug: Variant) -> None:
        """What `train.layer_decay` does, wherever a family names its encoder's blocks."""
        family = debug.declared
        if not family.encoder_blocks:
            pytest.skip("names no blocks")
        network, phase = debug.build(0), PhaseSpec(epochs=1, lr=1.0)
        optimizer = adamw(
            network, phase, weight_decay=0.0, encoder=family.encoder, layer_decay=0.5, blocks=family.encoder_blocks
        )
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        trained = [(name, rates[id(p)]) for name, p in network.named_parameters() if p.requires_grad]
        encoder = [rate for name, rate in trained if name.startswith(family.encoder)]
        assert encoder == sorted(encoder), "in the order of the network"
        assert max(encoder) == 0.5
        assert {rate for name, rate in trained if not name.startswith(family.encoder)} == {1.0}

    @pytest.mark.slow
    def test_adapters_begin_with_the_outputs_of_the_base(self, debug: Variant) -> None:
        image, _ = picture()
        if debug.takes_boxes:
            pytest.skip("shown by the families that need no prompt")
        expected = None
        for kind in ("full", *(k for k in ("lora", "dora", "conv_lora") if k in debug.declared.adapters)):
            network = adapted(debug, kind).eval()
            with torch.inference_mode():
                scores = [i.score for i in network.predict([image], [Prompt()])[0]]
            expected = scores if expected is None else expected
            assert scores == pytest.approx(expected, abs=1e-4), kind

    @pytest.mark.parametrize("adapter", [pytest.param("full", marks=pytest.mark.slow), "lora"])
    def test_a_model_folder_gives_the_trained_model_back(self, debug: Variant, adapter: str, tmp_path: Path) -> None:
        name = debug.family
        if adapter not in debug.declared.adapters:
            pytest.skip(f"`{name}` does not support {adapter}")
        run = RunSpec.model_validate(
            {
                "model": {"family": name, name: dict(debug.declared.debug)},
                "train": {"adapter": {"kind": adapter, "rank": 2}},
            }
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

    def test_networks_of_a_pack_have_the_gradients_that_each_has_alone(self, variant: Variant) -> None:
        """What a family says that declares `packs`."""
        if not variant.declared.packs:
            pytest.skip("does not declare `packs`")
        seen = [example(variant.options.image_size), example(variant.options.image_size, objects=False)]
        networks = [_apart(adapted(variant, "lora"), by=by) for by in (0.01, 0.03)]
        expected, pack = [_gradients(variant, network, seen) for network in networks], Pack()
        are_here = Barrier(len(networks))

        def compute(network: Segmenter) -> dict[str, torch.Tensor]:
            with pack.member() as member:
                member.train(network)
                with member.away():
                    are_here.wait()
                return _gradients(variant, network, seen)

        with ThreadPoolExecutor(len(networks)) as threads:
            found = list(threads.map(compute, networks))
        assert not pack.refused
        assert pack.at_once
        for alone, together in zip(expected, found, strict=True):
            assert alone.keys() == together.keys()
            for name, gradient in alone.items():
                torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=1e-5, msg=name)

    @pytest.mark.filterwarnings(
        "ignore:Grad strides do not match"
    )  # of 1 x 1 convolutions: slower by a copy, not wrong
    def test_data_parallel_training_takes_batches_without_objects_and_with_200(
        self, variant: Variant, tmp_path: Path
    ) -> None:
        """Without a search for unused parameters, unless the family declares some: one too many stops the next step."""
        network = variant.build().train()
        exempt = variant.declared.sometimes_unused
        with process_group(tmp_path, rank=0, workers=1):
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
    @pytest.mark.timeout(1200)
    def test_two_workers_stay_together_whatever_each_of_them_sees(self, tmp_path: Path) -> None:
        variants = self.variants()
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
            outcomes = list(processes.map(_work, range(2), [tmp_path] * 2, [variants] * 2))
        assert variants
        assert outcomes == [{}, {}]

    @pytest.mark.slow
    @pytest.mark.timeout(3600)  # three minutes of the CPU, however long it must share it
    def test_sixteen_images_are_overfitted_in_three_minutes(self, debug: Variant) -> None:
        """Mean IoU on the training images themselves, by the engine's own loop."""
        drawings = Format(Options(scene="roofs", count=64, size=64, seed=3))
        few = [s for s in drawings.read(lambda _: None) if len(s.instances) <= 4]  # every debug size has room
        rows = [(sample, drawings.image_bytes(sample)) for sample in few[:16]]
        run = RunSpec.model_validate(
            {
                "model": {"family": debug.family, debug.family: dict(debug.declared.debug)},
                # No average: it would lag behind a network that has just got there.
                "train": {
                    "epochs": 1000,
                    "batch_size": 8,
                    "lr": 2e-3,
                    "augment": [],
                    "schedule": "constant",
                    "ema": None,
                },
                "evaluate": {"prompts": "box" if debug.takes_boxes else "none", "pictures": 0, "batch_size": 16},
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
            # Scoring what is written takes longer than a step.
            fit(run, ("roof",), train=rows * 4, val=rows, report=report)
        seconds = time.process_time() - start
        _LOG.info("%s: IoU %.3f after %d epochs, %.0f CPU-s", debug, max(scores), len(scores), seconds)
        assert max(scores) >= 0.9


def _even(*size: int, device: torch.device | None = None) -> torch.Tensor:
    """Numbers from 0 to 1 evenly apart, the same in each row: chance does not hide what a batch changes."""
    return torch.linspace(0, 1 - 1e-6, size[-1], device=device).expand(*size).clone()


def _half_ignored(image_size: int) -> Example:
    """The picture with its left half ignored."""
    shown = example(image_size)
    ignore_HW = shown.ignore_HW.copy()
    ignore_HW[:, : ignore_HW.shape[1] // 2] = True
    return replace(shown, ignore_HW=ignore_HW)


def adapted(variant: Variant, kind: str, *, seed: int = 0) -> Segmenter:
    """The network with an adapter in place."""
    network = variant.build(seed)
    adapters.apply(network, variant.declared, AdapterSpec.model_validate({"kind": kind, "rank": 2, "blocks": 1}))
    return network.train()


def _apart(network: Segmenter, *, by: float) -> Segmenter:
    """The network, somewhat trained."""
    random = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += by * torch.randn(parameter.shape, generator=random)
    return network


def _gradients(variant: Variant, network: Segmenter, seen: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Of what is trained, after the loss of some examples."""
    torch.manual_seed(0)
    network.zero_grad(set_to_none=True)
    network.backward(variant.weighted(network(network.collate(seen))))
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def backward(variant: Variant, network: nn.Module, batch: Batch) -> torch.Tensor:
    """The loss of a batch, after its gradients were computed."""
    loss = variant.weighted(network(batch))
    torch.autograd.backward(loss)
    return loss.detach()


def assert_is_what_the_kind_says(variant: Variant, kind: str, network: nn.Module, trained: frozenset[str]) -> None:
    """Of each kind of adapter, which parameters it may train."""
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


@contextmanager
def process_group(folder: Path, *, rank: int, workers: int) -> Iterator[None]:
    """This process as one of some that train together: data-parallel training with all its checks."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=workers)
    try:
        yield
    finally:
        time.sleep(0.05)  # torch waits for gloo's threads with the interpreter locked, which their last act may need
        distributed.destroy_process_group()


def _work(rank: int, folder: Path, variants: Collection[Variant]) -> dict[str, str]:
    """What went wrong, by family and mode."""
    torch.set_num_threads(1)
    wrong: dict[str, str] = {}
    with process_group(folder, rank=rank, workers=2):
        workers = Workers.here()
        for variant in variants:
            network = variant.build().train()
            parallel = workers.parallel(network, finds_unused=bool(variant.declared.sometimes_unused))
            optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-4)
            for step in STEPS:
                optimizer.zero_grad(set_to_none=True)
                batch = network.collate(BATCHES[step[rank]](variant.options.image_size))
                loss = backward(variant, parallel, batch)
                gradients = [p.grad for p in network.parameters() if p.grad is not None]
                if not torch.isfinite(loss) or not all(torch.isfinite(g).all() for g in gradients):
                    wrong[str(variant)] = f"not finite in {step}"
                optimizer.step()
            mine = float(torch.stack([p.detach().double().sum() for p in network.parameters()]).sum())
            if len(set(workers.gather([mine]))) > 1:
                wrong[str(variant)] = "the workers' weights differ"
    return wrong
