"""What a training step of each family costs in time, memory and parameters: at debug sizes, and on a GPU at real ones.

Every network is drawn at random and trained in a process of its own, so that its peak memory is its own. Real sizes are
skipped, and said to be, where there is no GPU. Last: what cached embeddings save where only the decoder is trained.
"""

import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from segdist import adapters
from segdist.core import registry
from segdist.core.plugins import Family, declaration
from segdist.core.spec import AdapterSpec
from segdist.engine.runtime import Values, peak_memory
from segdist.formats.synthetic import Format, Options
from segdist.nets.collate import on_device
from segdist.reading.examples import make_example

REAL: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("unet_cbam", {"image_size": 512, "width": 32}),
    ("mask2former", {"weights": "random", "size": "swin_tiny", "image_size": 384}),
    ("oneformer", {"weights": "random", "size": "swin_tiny", "image_size": 384}),
    ("rf_detr", {"weights": "random", "size": "medium"}),
    ("segformer", {"weights": "random", "size": "b0", "image_size": 512}),
    ("sam", {"weights": "random", "size": "vit_b", "prompt": "class"}),
    ("sam", {"weights": "random", "size": "vit_h", "prompt": "class"}),
    ("sam2", {"weights": "random", "size": "hiera_tiny", "prompt": "class"}),
    ("sam3", {"weights": "random", "size": "published"}),
    ("yolo", {"weights": "random", "size": "11n"}),
)
"""Families at sizes that people use; image sizes left out are those they were trained with."""
CLASSES = ("roof",)
WARM_UP, STEPS = 2, 5


@dataclass(frozen=True)
class Case:
    """A family with its options, and what of it is trained."""

    family: str
    options: Mapping[str, Any]
    batch_size: int
    adapter: str = "full"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """For the table."""
        size = self.options.get("size", "" if "width" not in self.options else f"width {self.options['width']}")
        return " ".join(part for part in (self.family, str(size), self.adapter) if part)


@dataclass(frozen=True)
class Cost:
    """What a step costs.

    Attributes:
        parameters: values in all parameters.
        trained: those that the optimiser moves.
        batch_seconds: to make a batch of examples, the median; on a CPU of this process's own CPU time, which other
            processes lengthen least.
        seconds: of a step with its batch ready, in the same way.
        peak_mb: memory above what the process held before the network was built, in 1e6 bytes.
    """

    parameters: int
    trained: int
    batch_seconds: float
    seconds: float
    peak_mb: float


def main() -> None:
    """Print the tables."""
    print("debug sizes, batch of 4, CPU")
    _table([Case(name, declared(name).debug, 4) for name in registry.names("models") if declared(name).losses])
    _cached_embeddings()
    if not torch.cuda.is_available():
        print("real sizes: not measured, because there is no GPU")
        return
    print(f"real sizes with random weights, batch of 2, bfloat16 autocast, {torch.cuda.get_device_name()}")
    cases = [Case(name, options, 2, kind, "cuda") for name, options in REAL for kind in ("full", "lora")]
    _table(cases)


def declared(name: str) -> Family:
    """What a family says of itself."""
    family: Family = declaration(name)
    return family


def measure(case: Case) -> Cost:
    """Train a few steps; runs in a process of its own."""
    device = torch.device(case.device)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    family, values = declared(case.family), Values()
    options = family.options.model_validate(dict(case.options))
    with peak_memory(values):
        network = registry.load_network(case.family).build(options, CLASSES)
        adapters.apply(network, family, AdapterSpec.model_validate({"kind": case.adapter}))
        network.to(device).train()
        batch_seconds, seconds = _steps(network, family, case.batch_size, device)
    trained = adapters.trained_parameters(network)
    peak_mb = values.get("runtime/peak_memory_mb", float("nan"))
    return Cost(adapters.parameters(network), trained, batch_seconds, seconds, peak_mb)


def _steps(network: Any, family: Family, batch_size: int, device: torch.device) -> tuple[float, float]:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    now = time.perf_counter if device.type == "cuda" else time.process_time
    examples = _examples(network, batch_size)
    batches, taken = [], []
    for _ in range(WARM_UP + STEPS):
        start = now()
        batch = on_device(network.collate(examples), device)
        batches.append(now() - start)
        start = now()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            terms = network(batch)
        torch.autograd.backward(
            torch.stack([family.losses[name] * value.float() for name, value in terms.items()]).sum()
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(now() - start)
    return statistics.median(batches[WARM_UP:]), statistics.median(taken[WARM_UP:])


def _examples(network: Any, count: int) -> list[Any]:
    size = network.options.image_size
    drawn = Format(Options(scene="roofs", count=count, size=size, seed=5))
    rng = np.random.default_rng(0)
    return [
        make_example(sample, drawn.image_bytes(sample), classes=CLASSES, image_size=size, rng=rng)
        for sample in drawn.read(lambda _: None)
    ]


def _cached_embeddings() -> None:
    """Steps of a decoder on images that were seen before, against those that run the frozen encoder each time."""
    print("the decoder alone, its encoder run or read, with the batch, CPU")
    sizes: list[tuple[str, Mapping[str, Any], int]] = [
        ("sam", {"size": "tiny", "prompt": "box"}, 4),
        ("sam", {"size": "vit_b", "weights": "random", "prompt": "box"}, 1),
    ]
    for family, options, batch_size in sizes:
        seconds = {}
        for embeddings in ("compute", "cache"):
            with TemporaryDirectory(prefix="segdist-") as folder, _alone({"SEGDIST_CACHE": folder}) as alone:
                case = Case(family, {**options, "embeddings": embeddings}, batch_size, "frozen_encoder")
                cost = alone.submit(measure, case).result()
                seconds[embeddings] = cost.batch_seconds + cost.seconds
        share = seconds["cache"] / seconds["compute"]
        print(
            f"{case.name:28} run {seconds['compute']:.3f} s a step, read {seconds['cache']:.3f} s: {share:.3f}",
            flush=True,
        )


def _alone(environment: Mapping[str, str] | None = None) -> ProcessPoolExecutor:
    """One process, whose peak memory is its own."""
    return ProcessPoolExecutor(1, get_context("spawn"), _set, (environment or {},))


def _set(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)


def _table(cases: list[Case]) -> None:
    print(f"{'':28}{'parameters':>12}{'trained':>12}{'s a step':>10}{'images/s':>10}{'peak MB':>9}")
    for case in cases:
        with _alone() as alone:
            cost = alone.submit(measure, case).result()
        print(
            f"{case.name:28}{cost.parameters:12,}{cost.trained:12,}{cost.seconds:10.3f}"
            f"{case.batch_size / cost.seconds:10.1f}{cost.peak_mb:9.0f}",
            flush=True,
        )
