"""The tensors of MobileSAM out of the two ONNX graphs in which it is published too: `encoder.onnx` and `sam.onnx`.

The exporter names a node after the module it came from, and leaves a tensor nameless where it changed it: a linear
layer's weight is transposed, a norm's parameters are spread over a map, the table of relative positions is looked up.
Here each is put back under the name that `mobile_sam.pt` gives it, batch norms apart, which the graph has folded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdist.core import extras
from segdist.core.errors import WeightsError
from segdist.models.sam import DECODER, ENCODER
from segdist.nets import state_dicts
from segdist.nets.state_dicts import State

if TYPE_CHECKING:
    from onnx import GraphProto

_PARTS = {"mask_downscaling": "prompt_encoder.", "transformer": "mask_decoder.", "output_upscaling": "mask_decoder."}
"""Where in SAM the modules lie that the decoder's graph names by their own names alone."""
_LARGEST_FILE = 1 << 28
_Array = NDArray[np.float32]


def read(folder: Path) -> State:
    """The tensors of both graphs, under the names of `mobile_sam.pt`.

    Raises:
        WeightsError: a file is missing or damaged, or one graph is not that of MobileSAM.
    """
    state: State = {}
    for name, convert in ((ENCODER, _encoder), (DECODER, _decoder)):
        file = folder / name
        try:
            found = dict(convert(_Graph(file)))
        except (KeyError, ValueError, IndexError) as error:
            raise WeightsError(f"{file} must be MobileSAM's graph, but holds no {error}") from error
        state_dicts.check(found, str(file))
        state |= found
    return state


class _Graph:
    """Tensors and nodes of a graph.

    Attributes:
        named: tensors that kept a name of the network's.
        inputs: for each node that uses one, the nameless tensors and large constants among its inputs.
    """

    def __init__(self, file: Path) -> None:
        graph = _parsed(file)
        from onnx import numpy_helper

        held = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                held[node.output[0]] = node.attribute[0].t
        arrays = {name: numpy_helper.to_array(tensor) for name, tensor in held.items()}
        nameless = {name for name in arrays if name.startswith("onnx::") or "Constant" in name}
        self.named = {name: array for name, array in arrays.items() if name not in nameless}
        self.inputs: dict[str, list[_Array]] = {}
        for node in graph.node:
            if found := [arrays[name] for name in node.input if name in nameless and arrays[name].ndim]:
                self.inputs[node.name] = found


def _parsed(file: Path) -> "GraphProto":
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise WeightsError(extras.needs(f"Reading {file}", "onnx")) from error
    try:
        size = file.stat().st_size
        if size > _LARGEST_FILE:
            raise WeightsError(f"{file} must have at most {_LARGEST_FILE >> 20} MB, but has {size >> 20}")
        model = onnx.load_model_from_string(file.read_bytes())
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise WeightsError(
            f"{file} must be an ONNX graph, but is cut off or damaged: {state_dicts.fetch_again(file)}"
        ) from error
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise WeightsError(f"{file} must hold its tensors itself, but names other files")
    return model.graph


def _encoder(graph: _Graph) -> Iterator[tuple[str, Tensor]]:
    for name, array in graph.named.items():
        yield f"image_encoder.{name}", _tensor(array)
    for node, arrays in graph.inputs.items():
        stem = "image_encoder." + _module(node)
        if node.endswith("/c/Conv"):
            yield f"{stem.removesuffix('.c')}.weight", _tensor(arrays[0])
            yield f"{stem.removesuffix('.c')}.bias", _tensor(arrays[1])
        elif node.endswith("/attn/Add"):
            yield f"{stem}.attention_biases", _tensor(_offsets(arrays[0]))
        elif found := _layer(node, stem, arrays[0]):
            yield found


def _decoder(graph: _Graph) -> Iterator[tuple[str, Tensor]]:
    for name, array in graph.named.items():
        yield name.removeprefix("model."), _tensor(array)
    for node, arrays in graph.inputs.items():
        module = _module(node)
        part = _PARTS.get(module.partition(".")[0])
        if part is not None and (found := _layer(node, part + module, arrays[0])):
            yield found
    tokens_1TC = _only(graph, (1, 5, 256))
    yield "mask_decoder.iou_token.weight", _tensor(tokens_1TC[0, :1])
    yield "mask_decoder.mask_tokens.weight", _tensor(tokens_1TC[0, 1:])
    yield "prompt_encoder.no_mask_embed.weight", _tensor(_only(graph, (1, 256, 1, 1))[:, :, 0, 0])


def _layer(node: str, stem: str, array: _Array) -> tuple[str, Tensor] | None:
    """A linear layer's weight, or a parameter of a norm over channels; None for what is no layer's."""
    operation = node.rpartition("/")[2]
    if operation == "MatMul" and array.ndim == 2:
        return f"{stem}.weight", _tensor(array.T)
    if operation in ("Mul", "Add_1") and array.ndim == 3 and array.shape[1:] == (1, 1):
        return f"{stem}.{'weight' if operation == 'Mul' else 'bias'}", _tensor(array[:, 0, 0])
    return None


def _module(node: str) -> str:
    """The module that a node came from; of a sequence's member the exporter says the sequence's name twice."""
    parts = node.strip("/").split("/")[:-1]
    return ".".join(p for i, p in enumerate(parts) if i + 1 == len(parts) or not parts[i + 1].startswith(f"{p}."))


def _offsets(bias_HNN: _Array) -> _Array:
    """(heads, offsets): the table from which attention biases of a square window were looked up.

    Offsets are (|dy|, |dx|) in the order in which pairs of the window's cells first have them: of the first cell with
    every cell, which has each.
    """
    return bias_HNN[:, 0, :]


def _only(graph: _Graph, shape: tuple[int, ...]) -> _Array:
    found = [array for arrays in graph.inputs.values() for array in arrays if array.shape == shape]
    if len(found) != 1:
        raise ValueError(f"single tensor of shape {shape}")
    return found[0]


def _tensor(array: _Array) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))
