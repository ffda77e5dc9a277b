"""Plain weights from a file, here or at a URI: never a pickle that runs code."""

import io
import pickle

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from segdist import storage
from segdist.errors import WeightsError

State = dict[str, Tensor]


def read(uri: str) -> State:
    """The tensors of a `.safetensors` file, or of a plain torch state dict under any other name.

    Raises:
        StorageError: the file is missing or cannot be read.
        WeightsError: it holds something else.
    """
    content = storage.read_bytes(storage.absolute(uri))
    try:
        state = load(content) if uri.endswith(".safetensors") else _unpickled(content)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{uri} must be a safetensors file or a plain torch state dict, but cannot be read: {reason}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{uri} must hold a plain torch state dict, but holds {type(state).__name__}")
    return state


def _unpickled(content: bytes) -> State:
    state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
