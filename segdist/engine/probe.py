"""What a run takes, by doing a little of it: a few real steps, a score, a checkpoint, an evaluation, in this process.

To be called in a process of its own: what that needed at most is then what the run needs.
"""

import gc
import json
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from segdist import adapters
from segdist.core.cards import has_card
from segdist.core.causes import is_out_of_memory
from segdist.core.errors import SegdistError
from segdist.core.plugins import declaration
from segdist.core.records import LabelledImage
from segdist.core.spec import Range, RunSpec
from segdist.engine import checkpoint, runtime
from segdist.engine.data import loader
from segdist.engine.epoch import Metrics
from segdist.engine.evaluation import EvaluationAccumulator, evaluate_network
from segdist.engine.fit import MODEL, PICTURES, fit
from segdist.engine.objective import objective_of
from segdist.engine.precision import autocast
from segdist.engine.predict import predict
from segdist.engine.taken import Taken
from segdist.engine.workers import Workers
from segdist.nets.collate import on_device

_ENOUGH_SECONDS = 3.0
"""Of steps after the first epoch, which warms up: more are not timed."""
_EPOCHS, _BATCHES = 6, 2
_ALL_ALIKE: dict[str, object] = {"train.sampling": None}
"""A few images need not show all classes and groups that have weights."""
_MATTERS = 1.02
"""A key matters where the heaviest of its values weighs this many times the lightest."""
_STATES = 4
"""Numbers that a trained parameter takes: itself, its gradient, and two of AdamW's; its average is one more."""


@dataclass(frozen=True)
class Request:
    """What to probe.

    Attributes:
        run: the run with a family's own values.
        sizes: searched keys that may change what a run takes, each after those its `when` names.
        draws: other points of the space, to be timed.
        largest: the largest point where it is known; None has it looked for among `sizes`.
        classes: the class names in order.
        train: labelled images, as many as are at hand.
        val: the same.
        beside: bytes that a trial has resident beside what the probe has, such as the rest of the data.
    """

    run: RunSpec
    sizes: Mapping[str, Range]
    draws: Sequence[Mapping[str, object]]
    largest: Mapping[str, object] | None
    classes: tuple[str, ...]
    train: Sequence[LabelledImage]
    val: Sequence[LabelledImage]
    beside: int = 0


class _Watch:
    """Seconds as a machine with nothing else to do would take them.

    On a CPU that others use too, work takes the clock longer than the CPU: then its CPU-seconds are told.
    """

    def __init__(self) -> None:
        self._last = self._now()

    def lap(self) -> tuple[float, float]:
        """Seconds since the last lap, and the share of them that a machine with nothing else to do would have taken."""
        (wall, busy), self._last = self._last, self._now()
        wall, busy = self._last[0] - wall, self._last[1] - busy
        return wall, min(1.0, busy / wall) if wall and not has_card() else 1.0

    def quiet(self) -> float:
        """Seconds since the last lap, as a machine with nothing else to do would have taken."""
        wall, share = self.lap()
        return wall * share

    @staticmethod
    def _now() -> tuple[float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


class _EnoughError(Exception):
    """The fit has shown what it was started for."""


def probe(request: Request, tell: Callable[[str, object], None]) -> None:
    """Measure a run at its own point, at the draws, and at the largest point of its space.

    Args:
        request: what to probe.
        tell: takes what begins (`at`) and what was found (`cards`, `own`, `draw`, `matters`, `largest`).
    """
    tell("cards", [torch.cuda.get_device_properties(k).total_memory for k in range(torch.cuda.device_count())])
    if request.largest is None:
        tell("at", {})
        tell("own", asdict(_taken(request, {})))
        for point in request.draws:
            tell("at", point)
            tell("draw", asdict(_taken(request, point)))
        largest, matters = _largest(request, tell)
        tell("matters", matters)
    else:
        largest = dict(request.largest)
    if largest or request.largest is not None:
        tell("at", largest)
        tell("largest", asdict(_taken(request, largest)))


def _taken(request: Request, point: Mapping[str, object]) -> Taken:
    run = request.run.override({"train.epochs": _EPOCHS, "train.phases": [], "train.keep_every": None, **point})
    run = _of_one_worker(run.override({"train.checkpoint_every": 1}))
    train = _repeated(request.train, _BATCHES * run.train.batch_size)
    val = _repeated(request.val, min(run.evaluate.batch_size, 2 * len(request.val)))
    found: list[Taken] = []
    epochs: list[tuple[float, float, float]] = []
    watch, setup = _Watch(), 0.0

    def report(metrics: Metrics, folder: Path | None) -> None:
        nonlocal setup
        if folder is None:  # it diverged: nothing was saved, and nothing more is to be seen
            raise SegdistError(f"The loss is not finite in the first steps at {dict(point)}: lower `train.lr`.")
        training = len(train) / metrics["train/images_per_second"]
        wall, share = watch.lap()
        rest = wall - metrics["seconds"]  # until the first epoch begins, or until one is saved
        setup = setup or share * rest
        epochs.append((share * training, share * (metrics["seconds"] - training), share * rest))
        done = epochs[1:]
        if not done or (sum(seconds for seconds, _, _ in done) < _ENOUGH_SECONDS and len(epochs) < _EPOCHS):
            return
        memory, resident = runtime.peak_bytes(), runtime.resident_peak_bytes()
        seconds = [sum(column) / len(done) for column in zip(*done, strict=True)]
        runtime.forget_peak()
        evaluated = _evaluated(run, folder, val)
        found.append(
            Taken(
                point=dict(point),
                batch=run.train.batch_size,
                setup_seconds=setup,
                step_seconds=seconds[0] / math.ceil(len(train) / run.train.batch_size),
                score_seconds=seconds[1] / len(val),
                save_seconds=seconds[2],
                memory=memory + (0 if has_card() else request.beside),
                resident=resident + request.beside,
                evaluation_memory=runtime.peak_bytes() + (0 if has_card() else request.beside),
                checkpoint_bytes=_bytes_of(folder),
                model_bytes=_bytes_of(folder / MODEL),
                picture_bytes=_bytes_of(folder / PICTURES),
                divided_bytes=round(4 * (_STATES - 1 + bool(run.train.ema)) * metrics["model/trained_parameters"]),
                **evaluated,
            )
        )
        raise _EnoughError

    with suppress(_EnoughError):
        fit(run, request.classes, train=train, val=val, report=report)
    gc.collect()
    return found[0]


def _of_one_worker(run: RunSpec) -> RunSpec:
    """A worker's share of a step, on its own, with images that are all alike."""
    share = math.ceil(run.train.batch_size / run.resources.workers)
    alone = {"resources.workers": 1, "resources.strategy": "ddp"}
    return run.override({"train.batch_size": share, **alone, **_ALL_ALIKE})


def _evaluated(run: RunSpec, folder: Path, val: Sequence[LabelledImage]) -> dict[str, float]:
    """What the evaluation of a kept model takes: of each image, and to time the model."""
    network = checkpoint.load(folder / MODEL, trusted=True, device=Workers.here().device)
    watch = _Watch()
    evaluate_network(network, val[:1], run.evaluate)
    once = watch.quiet()
    found = EvaluationAccumulator(network.classes, run.evaluate)
    for sample, image, prediction in predict(network, val, run.evaluate.model_copy(update={"batch_size": 1})):
        found.add(sample, image, prediction)
    report = found.result()
    each = watch.quiet() / len(val)
    place = folder / "evaluation"
    report.write(place, "val", val)
    return {
        "evaluate_seconds": each,
        "timing_seconds": max(0.0, once - 2 * each),  # it warms up with one more
        "evaluation_bytes": _bytes_of(place) / len(val),
    }


def _largest(request: Request, tell: Callable[[str, object], None]) -> tuple[dict[str, object], list[str]]:
    """The heaviest point: key after key the value at which a forward pass keeps most; and the keys that matter."""
    chosen: dict[str, object] = {}
    matters: list[str] = []
    for key, searched in request.sizes.items():
        known = {**_own(request), **chosen}
        if not all(known.get(name) == value for name, value in searched.when.items()):
            continue
        weights: dict[object, float] = {}
        for value in searched.choices or (searched.low, searched.high):
            text = json.dumps(list(value)) if isinstance(value, list | tuple) else value
            tell("at", {**chosen, key: text})
            weights[text] = _weight(request, {**chosen, key: text})
        heaviest = max(weights, key=weights.__getitem__)
        if weights[heaviest] > _MATTERS * min(weights.values()):
            chosen[key] = heaviest
            matters.append(key)
    own = _own(request)
    return {key: value for key, value in chosen.items() if value != own.get(key)}, matters


def _own(request: Request) -> dict[str, object]:
    """The run's own values of the keys that other keys' `when` may name."""
    content = request.run.model_dump(mode="json")
    found: dict[str, object] = {}
    for key in {*request.sizes, "model.family"}:
        node: object = content
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        found[key] = node
    return found


def _weight(request: Request, point: Mapping[str, object]) -> float:
    """Bytes that a training step holds: the states of the parameters, and what the forward pass keeps for the backward.

    Infinite where the memory did not suffice.
    """
    try:
        run = _of_one_worker(request.run.override(point))
        workers = Workers.here()
        network = checkpoint.build(run.model, request.classes, adapter=run.train.adapter, seed=run.seed)
        network = network.to(workers.device).train()
        rows = _repeated(request.train, run.train.batch_size)
        network.objective = objective_of(run, declaration(run.model.family), rows, request.classes)
        batches, _ = loader(network, rows, run, rank=0, world_size=1, pin_memory=False)
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = on_device(next(iter(batches)), workers.device)
        for parameter in network.parameters():
            kept[parameter.untyped_storage().data_ptr()] = 0  # counted below
        precision = autocast(run.train.precision, workers.device)
        with precision, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            terms = network(batch)
        weight = sum(kept.values()) + 4 * adapters.parameters(network)
        del terms
        return float(weight + 4 * (_STATES - 1) * adapters.trained_parameters(network))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf


def _repeated(rows: Sequence[LabelledImage], count: int) -> list[LabelledImage]:
    return [rows[k % len(rows)] for k in range(max(1, count))]


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
