"""A network as an ONNX graph, and the proof that onnxruntime computes with it what torch does.

Scaling and padding before the network, and run lengths after it, stay outside: the graph goes from pixels to tensors.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segdist.core import extras, masks
from segdist.core.errors import ExportError, SpecError
from segdist.core.plugins import Family, ImageHWC
from segdist.core.records import Instance
from segdist.formats.synthetic.scenes import draw
from segdist.nets.segmenter import Segmenter, Traceable

OPSET = 18
INPUT = "pixels_B3SS"
RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""Parity: |onnx - torch| <= ABSOLUTE + RELATIVE x |torch| for every value, as float32 on two runtimes allows."""
LEAST_IOU = 0.99
"""Parity of what is found in an image."""


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime and torch differ over drawn images.

    Attributes:
        images: how many were compared.
        max_difference: the largest absolute difference of any value, for each output.
        smallest_iou: of the pixels of any class in any image, as found through the graph and by `predict`.
        batch: images the graph takes at once; 0 for any number.
    """

    images: int
    max_difference: dict[str, float]
    smallest_iou: float
    batch: int

    def to_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def write(network: Segmenter, declared: Family, file: Path) -> Parity:
    """Write the graph of a network, ready to predict, and compare.

    The graph takes any number of images where the network can be traced so, else one at a time.

    Args:
        network: ready to predict, on the CPU.
        declared: its family.
        file: `.onnx`.

    Raises:
        SpecError: onnx or onnxruntime is not installed.
        ExportError: the family has no graph with these options, or the graph computes something else.
    """
    names = declared.onnx(network.options)
    if not names or not isinstance(network, Traceable):
        raise ExportError(
            "This model has no ONNX graph: families that can be written as ONNX are those with `onnx` in "
            "`segdist models --json`; promptable ones need `prompt: class`. Export it as safetensors, pyfunc or hf."
        )
    _check_installed()
    images = _drawn(network.options.image_size)
    for batch in (0, 1):
        try:
            _trace(network, names, file, network.pixels(images[:2] if batch == 0 else images[:1]), batch)
            return _compared(network, names, file, images, batch)
        except (_DiffersError, RuntimeError, torch.onnx.OnnxExporterError) as error:
            reason = str(error).strip().splitlines()[0]
    file.unlink(missing_ok=True)
    raise ExportError(f"The ONNX graph was not kept, because it does not compute what torch does: {reason}")


class _DiffersError(Exception):
    """The graph's values are not the network's."""


class _Graph(nn.Module):
    """The middle step of prediction as a module of its own."""

    def __init__(self, network: Traceable) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_B3SS: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.network.outputs(pixels_B3SS)
        return outputs


def _trace(network: Traceable, names: Sequence[str], file: Path, pixels_B3SS: Tensor, batch: int) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter by tracing is marked as old, but takes 2 s where the new one takes 50; what a trace may miss is
        # found by `_compared`.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(network).eval(),
            (pixels_B3SS,),
            str(file),
            input_names=[INPUT],
            output_names=list(names),
            dynamic_axes=None if batch else {name: {0: "batch"} for name in (INPUT, *names)},
            opset_version=OPSET,
            dynamo=False,
        )


def _compared(network: Traceable, names: Sequence[str], file: Path, images: Sequence[ImageHWC], batch: int) -> Parity:
    """Raises _DiffersError where a value differs by more than rounding."""
    run = session(file)
    largest, ious = dict.fromkeys(names, 0.0), [1.0]
    for some in ([images[0]], images[1:]) if not batch else [[image] for image in images]:
        pixels_B3SS = network.pixels(some)
        with torch.inference_mode():
            wanted = [t.numpy() for t in network.outputs(pixels_B3SS)]
            expected = network.found([torch.from_numpy(w) for w in wanted], some)
        outputs = run(pixels_B3SS.numpy())
        for name, value, want in zip(names, outputs, wanted, strict=True):
            if value.shape != want.shape or not np.allclose(value, want, rtol=RELATIVE, atol=ABSOLUTE):
                raise _DiffersError(f"{name} differs from torch's")
            largest[name] = max(largest[name], float(np.abs(value - want).max()))
        with torch.inference_mode():
            found = network.found([torch.from_numpy(o) for o in outputs], some)
        ious += [_same(a, b) for a, b in zip(found, expected, strict=True)]
    if min(ious) < LEAST_IOU:
        raise _DiffersError(f"what is found has an IoU of {min(ious):.3f} with what torch finds")
    return Parity(len(images), largest, min(ious), batch)


def session(file: Path) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """A function from pixels to the list of outputs, on onnxruntime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised; its log would say it twice
    opened = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(pixels_B3SS: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        try:
            return list(opened.run(None, {INPUT: pixels_B3SS}))
        except Exception as error:
            raise _DiffersError(str(error).strip().splitlines()[0]) from error

    return run


def _same(found: Sequence[Instance], expected: Sequence[Instance]) -> float:
    """The smallest IoU of the union of a class; 1 where nothing is found on both sides."""
    ious = [1.0]
    for label in {i.label for i in (*found, *expected)}:
        a, b = ([i.mask for i in side if i.label == label and i.mask] for side in (found, expected))
        if not a or not b:
            return 0.0
        size_hw = a[0].size_hw
        ious.append(masks.iou(masks.union(a, size_hw=size_hw), masks.union(b, size_hw=size_hw)))
    return min(ious)


def _drawn(image_size: int) -> list[ImageHWC]:
    """Pictures of every shape that padding meets: square, wide and high."""
    side = max(image_size, 64)
    square = [draw(scene, k, side)[0] for k, scene in enumerate(("rooms", "roofs", "cracks"))]
    return [square[0], square[1][: side // 2], square[2][:, : side // 3], square[1]]


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise SpecError(extras.needs("ONNX", str(error.name))) from error
