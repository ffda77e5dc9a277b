"""Students that learn photographs for so many CPU-seconds: ours as `sweeps/photos.yaml` has it, and peers by their own.

A peer's network gets the same photographs at the same size, mirrored and lit by the same draws, and AdamW whose rate
rises and falls over the seconds it has, with cross-entropy and Dice. Ultralytics trains by its own code.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks._photographs import IMAGE_SIZE, Photographs
from segdist.core.plugins import Batch, ImageSize, ModelOptions
from segdist.core.records import LabelledImage, Prediction
from segdist.core.spec import RunSpec
from segdist.engine.data import loader
from segdist.engine.fit import Metrics, fit
from segdist.engine.predict import predict
from segdist.nets import packaged
from segdist.nets.collate import ChannelValues, on_device
from segdist.nets.segmenter import Segmenter
from segdist.nets.semantic import SemanticSegmenter
from segdist.sweepfile.loading import load

BATCH, RATE, DECAY, WARMUP = 8, 1e-3, 1e-2, 0.05
"""Of the peers: usual for their networks, not tuned on these photographs."""
IGNORED = 255
REHEARSED = 6
"""Batches of ours that tell how long an epoch is."""
Found = Callable[[Sequence[LabelledImage]], Iterator[Prediction]]
"""What a student that has learned says of photographs."""


def ours(*changes: str) -> Callable[..., Found]:
    """`sweeps/photos.yaml` as it is, untuned, with further `key=value`; the last epoch's weights."""

    def learn(name: str, of: Photographs, train: Sequence[LabelledImage], *, seed: int, seconds: float) -> Found:
        size = f"model.unet_cbam.image_size={IMAGE_SIZE[name]}"
        spec = load("sweeps/photos.yaml", [size, f"seed={seed}", "evaluate.pictures=0", *changes])
        run = _lasting(spec.run, of, train, seconds)
        network = fit(run, of.classes, train=train, val=train[:1], report=lambda *_: None)
        assert isinstance(network, Segmenter)
        return _predictions(network, run)

    return learn


def peer(make: Callable[[int], nn.Module], *, colours: tuple[ChannelValues, ChannelValues] | None = None) -> Any:
    """A network that gives a logit for each class and pixel, background first, learned by a plain loop."""

    def learn(name: str, of: Photographs, train: Sequence[LabelledImage], *, seed: int, seconds: float) -> Found:
        torch.manual_seed(seed)
        network = _Peer(make(len(of.classes) + 1), IMAGE_SIZE[name], of.classes, colours)
        run = _run(name, seed)
        _descend(network, _batches(network, train, run), seconds=seconds)
        return _predictions(network, run)

    return learn


def unet_of_smp(outputs: int) -> nn.Module:
    """U-Net of segmentation-models-pytorch on the encoder that ours has, with the same weights of ImageNet."""
    import segmentation_models_pytorch

    made: nn.Module = segmentation_models_pytorch.Unet(
        "tu-tf_efficientnet_lite0", encoder_weights=None, classes=outputs
    )
    missing, _ = made.get_submodule("encoder.model").load_state_dict(packaged.state("efficientnet_lite0"), strict=False)
    assert not missing
    return made


def lraspp_of_torchvision(outputs: int) -> nn.Module:
    """LR-ASPP on MobileNetV3 from random weights: torchvision's are on a server of theirs."""
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return _Dense(lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=outputs))


def yolo(name: str, of: Photographs, train: Sequence[LabelledImage], *, seed: int, seconds: float) -> Found:
    """YOLO11n-seg of Ultralytics from random weights, trained and asked by its public API with its own settings."""
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "true"
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
    from benchmarks._ultralytics import learn

    return learn(name, of, train, seed=seed, seconds=seconds, image_size=IMAGE_SIZE[name])


STUDENTS: dict[str, Callable[..., Found]] = {
    "unet_cbam, ImageNet": ours(),
    "smp U-Net, ImageNet": peer(unet_of_smp, colours=((127.5,) * 3, (127.5,) * 3)),
    "unet_cbam, random": ours("model.unet_cbam.weights=random"),
    "torchvision LR-ASPP, random": peer(lraspp_of_torchvision),
    "Ultralytics YOLO11n-seg, random": yolo,
}
"""By the name that the table has; the first two begin with the same weights of the same encoder."""


class _Dense(nn.Module):
    """Of what torchvision's networks say, the map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3SS: Tensor) -> Tensor:
        found: Tensor = self.network(images_B3SS)["out"]
        return found


class _Peer(SemanticSegmenter):
    """Another's network, asked as ours are."""

    class Options(ModelOptions):
        image_size: ImageSize

    def __init__(
        self,
        network: nn.Module,
        image_size: int,
        classes: tuple[str, ...],
        colours: tuple[ChannelValues, ChannelValues] | None,
    ) -> None:
        super().__init__(self.Options(image_size=image_size), classes)
        self.network, self._colours = network.to(memory_format=torch.channels_last), colours  # type: ignore[call-overload]

    @property
    def colours(self) -> tuple[ChannelValues, ChannelValues]:
        return self._colours or super().colours

    def logits(self, images_B3SS: Tensor) -> Tensor:
        found: Tensor = self.network(images_B3SS.contiguous(memory_format=torch.channels_last))
        return found


def _run(name: str, seed: int) -> RunSpec:
    """Augmentation, batches and evaluation of ours."""
    size = f"model.unet_cbam.image_size={IMAGE_SIZE[name]}"
    return load("sweeps/photos.yaml", [size, f"seed={seed}", f"train.batch_size={BATCH}"]).run


def _predictions(network: Segmenter, run: RunSpec) -> Found:
    return lambda rows: (prediction for _, _, prediction in predict(network, rows, run.evaluate))


def _lasting(run: RunSpec, of: Photographs, train: Sequence[LabelledImage], seconds: float) -> RunSpec:
    """The same with as many epochs in its last phase as the seconds hold, by a step of each phase.

    The steps are rehearsed on a few images, two epochs of each phase, and the second one counts: in the first, memory
    is asked for and kernels are made.
    """
    few = train[: REHEARSED * run.train.batch_size]
    told = [time.process_time()]

    def report(metrics: Metrics, _: object) -> None:  # noqa: ARG001 - what a fit reports with
        told.append(time.process_time())

    *before, last = run.train.phases
    two_each = [phase.model_copy(update={"epochs": 2}) for phase in (*before, last)]
    fit(_with_phases(run, two_each), of.classes, train=few, val=few[:1], report=report)
    *others, epoch = np.diff(told)[1::2] * (len(train) / len(few))
    left = seconds - sum(phase.epochs * other for phase, other in zip(before, others, strict=True))
    return _with_phases(run, (*before, last.model_copy(update={"epochs": max(1, round(left / epoch))})))


def _with_phases(run: RunSpec, phases: Sequence[Any]) -> RunSpec:
    every = sum(phase.epochs for phase in phases)
    return run.model_copy(
        update={"train": run.train.model_copy(update={"phases": tuple(phases), "checkpoint_every": every})}
    )


def _batches(network: Segmenter, train: Sequence[LabelledImage], run: RunSpec) -> Iterator[Batch]:
    batches, sampler = loader(network, train, run, rank=0, world_size=1, pin_memory=False)
    while True:
        yield from batches
        sampler.epoch += 1


def _descend(network: SemanticSegmenter, batches: Iterator[Batch], *, seconds: float) -> None:
    """AdamW whose rate is a matter of the CPU-seconds that are gone: a short rise, then half a cosine."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    begun = time.process_time()
    network.train()
    while (gone := (time.process_time() - begun) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = RATE * min(gone / WARMUP, 0.5 * (1 + math.cos(math.pi * gone)), 1.0)
        batch = on_device(next(batches), torch.device("cpu"))
        optimizer.zero_grad()
        torch.autograd.backward(_loss(network._enlarged_logits(batch["images"]), batch["target"], batch["ignore"]))
        optimizer.step()


def _loss(logits_BKSS: Tensor, target_BSS: Tensor, ignore_BSS: Tensor) -> Tensor:
    """Cross-entropy and the Dice loss of segmentation-models-pytorch."""
    from segmentation_models_pytorch.losses import DiceLoss

    target_BSS = target_BSS.masked_fill(ignore_BSS, IGNORED)
    dice: Tensor = DiceLoss("multiclass", ignore_index=IGNORED)(logits_BKSS, target_BSS)
    return functional.cross_entropy(logits_BKSS, target_BSS, ignore_index=IGNORED) + dice
