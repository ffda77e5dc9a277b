"""Weights from a file into a network: never a pickle that runs code, never a silent mismatch."""

from pathlib import Path

from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn.functional import interpolate

from segdist.core.errors import WeightsError
from segdist.core.text import counted
from segdist.models.sam import Options, how_to_get, onnx_pair, tiny_vit
from segdist.nets import state_dicts

_MOST_TIMES_LARGER = 4096
"""A position table of published weights against that of the smallest image."""


def load(sam: Sam, file: Path, options: Options) -> None:
    """Put the weights of a file, or of a folder of ONNX graphs, into a network.

    Position tables are resized to the network's image size.

    Raises:
        WeightsError: the file is damaged, or holds the weights of another network.
    """
    state, wanted = _state(file, options), sam.state_dict()
    state = {k: _resized(k, v, wanted[k]) if k in wanted else v for k, v in state.items()}
    wrong = sorted(
        {k for k in state.keys() & wanted.keys() if state[k].shape != wanted[k].shape} | (state.keys() ^ wanted.keys())
    )
    if wrong:
        raise WeightsError(
            f"{file} must hold the weights of `size: {options.size}`, but "
            f"{counted(len(wrong), 'tensor differs', 'tensors differ')}, "
            f"{wrong[0]} for one. {how_to_get(options)}"
        )
    sam.load_state_dict(state)


def _state(file: Path, options: Options) -> state_dicts.State:
    if options.size != "vit_t":
        return state_dicts.read(str(file))
    return tiny_vit.from_published(onnx_pair.read(file) if file.is_dir() else state_dicts.read(str(file)))


def _resized(name: str, value: Tensor, wanted: Tensor) -> Tensor:
    """A position table for another grid: absolute positions bicubic, relative ones linear (as ViTDet does)."""
    if value.shape == wanted.shape or not 0 < value.numel() <= _MOST_TIMES_LARGER * wanted.numel():
        return value
    if name.endswith("pos_embed") and value.ndim == wanted.ndim == 4 and value.shape[3] == wanted.shape[3]:
        table_1CHW = value.float().permute(0, 3, 1, 2)
        larger = interpolate(table_1CHW, wanted.shape[1:3], mode="bicubic", align_corners=False, antialias=True)
        return larger.permute(0, 2, 3, 1)
    if ".rel_pos_" in name and value.ndim == 2 and value.shape[1] == wanted.shape[1]:
        return interpolate(value.float().T[None], wanted.shape[0], mode="linear", align_corners=False)[0].T
    return value
