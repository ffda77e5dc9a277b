"""What a trial costs beside a plain loop around segmentation-models-pytorch: CPU-seconds of an epoch, and peak memory.

Both train the same network (`smp.Unet` on EfficientNet-Lite0, random weights) on the same drawn images in the same
batches with cross-entropy, Dice and AdamW, and score the same images after each epoch, on one thread, each in a fresh
process. The loop does what the library's examples do: files read by OpenCV, its Dice loss, its counts of pixels. A
trial also scores each image at its own size and worst group, saves what it needs to go on, and draws panels; its
network has its channels last, as those of our own families on such an encoder.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SIZE, BATCH, EPOCHS = 256, 8, 3
COUNTS = {"train": 64, "val": 16}
MEMORY, TIME = 1.3, 1.0
"""The targets, relative to the loop."""


@dataclass(frozen=True)
class Cost:
    """Of a process that trains.

    Attributes:
        seconds: of the CPU, an epoch with its scores, the median of all but the first.
        imported: resident bytes before the network is built.
        peak: resident bytes at most.
        iou: mean over classes, after the last epoch: they learn the same.
    """

    seconds: float
    imported: int
    peak: int
    iou: float


def main() -> None:
    """Print both costs and their ratios."""
    with TemporaryDirectory(prefix="segdist-bench-") as folder:
        _draw(Path(folder))
        costs = {name: _alone(learn, Path(folder)) for name, learn in {"loop": loop, "trial": trial}.items()}
    print(f"{'':8}{'CPU s an epoch':>16}{'imported MB':>13}{'peak MB':>9}{'IoU':>7}")
    for name, cost in costs.items():
        print(f"{name:8}{cost.seconds:16.2f}{cost.imported / 1e6:13.0f}{cost.peak / 1e6:9.0f}{cost.iou:7.3f}")
    one, two = costs["loop"], costs["trial"]
    for what, ratio, most in (("time", two.seconds / one.seconds, TIME), ("memory", two.peak / one.peak, MEMORY)):
        print(f"{what:8}{ratio:16.2f} of the loop's, target {most}: {'met' if ratio <= most else 'MISSED'}")


def _alone(learn: Callable[[Path], Cost], folder: Path) -> Cost:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(learn, folder).result()


def _draw(folder: Path) -> None:
    """Images and class maps as PNG, and samples as JSON, by split."""
    import cv2
    import numpy as np

    from segdist.core import masks
    from segdist.formats.synthetic import Format, Options

    for split, count in COUNTS.items():
        drawings = Format(Options(scene="roofs", count=count, size=SIZE, seed=len(split)))
        for number, sample in enumerate(drawings.read(lambda _: None)):
            class_HW = np.zeros((SIZE, SIZE), np.uint8)
            for instance in sample.instances:
                assert instance.mask is not None
                class_HW[masks.decode(instance.mask)] = 1
            (folder / f"{split}-{number}.png").write_bytes(drawings.image_bytes(sample))
            cv2.imwrite(str(folder / f"{split}-{number}-classes.png"), class_HW)


def trial(folder: Path) -> Cost:
    """By `engine.fit`."""
    import torch

    torch.set_num_threads(1)
    from segdist.core.spec import RunSpec
    from segdist.engine.fit import fit
    from segdist.engine.runtime import resident_peak_bytes
    from segdist.formats.synthetic import Format, Options
    from segdist.models.unet_cbam import network as family
    from segdist.nets.semantic import SemanticSegmenter
    from segdist.nets.timm_features import layout

    class Network(SemanticSegmenter):
        """The loop's."""

        def __init__(self, *of_family: Any) -> None:
            super().__init__(*of_family)
            self.network = _network()
            self.layout = layout(self.network)

        def logits(self, images_B3SS: torch.Tensor) -> torch.Tensor:
            return self.network(images_B3SS.contiguous(memory_format=self.layout))

    setattr(family, "UnetCbam", Network)  # noqa: B010 - in this process
    rows = {
        split: [
            (sample, (folder / f"{split}-{number}.png").read_bytes())
            for number, sample in enumerate(
                Format(Options(scene="roofs", count=count, size=SIZE, seed=len(split))).read(lambda _: None)
            )
        ]
        for split, count in COUNTS.items()
    }
    run = RunSpec.model_validate(
        {
            "model": {"family": "unet_cbam", "unet_cbam": {"image_size": SIZE}},
            "train": {"epochs": EPOCHS, "batch_size": BATCH, "lr": 1e-3, "precision": "float32"},
        }
    )
    imported, ends, ious = _resident(), [time.process_time()], list[float]()

    def report(metrics: dict[str, float], _: Path | None) -> None:
        ends.append(time.process_time())
        ious.append(metrics["val/iou"])

    fit(run, ("roof",), train=rows["train"], val=rows["val"], report=report)
    return Cost(_median(ends), imported, resident_peak_bytes(), ious[-1])


def loop(folder: Path) -> Cost:
    """As the examples of segmentation-models-pytorch do it."""
    import cv2
    import numpy as np
    import segmentation_models_pytorch as smp
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)

    class Files(Dataset[Any]):
        def __init__(self, split: str) -> None:
            self.split = split

        def __len__(self) -> int:
            return COUNTS[self.split]

        def __getitem__(self, number: int) -> Any:
            image = cv2.imread(str(folder / f"{self.split}-{number}.png"))
            classes = cv2.imread(str(folder / f"{self.split}-{number}-classes.png"), cv2.IMREAD_GRAYSCALE)
            assert image is not None
            assert classes is not None
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            normal = ((image - _MEAN) / _STD).astype(np.float32)
            return np.ascontiguousarray(normal.transpose(2, 0, 1)), classes.astype(np.int64)

    imported, ends, iou = _resident(), [time.process_time()], 0.0
    network, dice, cross_entropy = _network(), smp.losses.DiceLoss("multiclass"), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    train, val = (DataLoader(Files(split), BATCH, shuffle=split == "train") for split in ("train", "val"))
    for _ in range(EPOCHS):
        network.train()
        for images, classes in train:
            logits = network(images)
            loss = cross_entropy(logits, classes) + dice(logits, classes)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        network.eval()
        counts = []
        with torch.inference_mode():
            for images, classes in val:
                found = network(images).argmax(1)
                counts.append(smp.metrics.get_stats(found, classes, mode="multiclass", num_classes=2))
        tp, fp, fn, tn = (torch.cat(of)[:, 1:].sum(0, keepdim=True) for of in zip(*counts, strict=True))
        iou = float(smp.metrics.iou_score(tp, fp, fn, tn, reduction="macro"))
        torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, folder / "last.pt")
        ends.append(time.process_time())
    return Cost(_median(ends), imported, _peak(), iou)


_MEAN, _STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def _network() -> Any:
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    return smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, classes=2)


def _median(ends: list[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(ends[1:]))


def _resident() -> int:
    return _of_status("VmRSS")


def _peak() -> int:
    return _of_status("VmHWM")


def _of_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    main()
