"""The codec's weights: those that come with segdist, your own, or Google's `vae-oid.npz`."""

import hashlib
import io
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from segdist.core import storage
from segdist.core.errors import StorageError, WeightsError
from segdist.nets import state_dicts
from segdist.nets.paligemma.codec import MaskCodec
from segdist.nets.paligemma.published_codec import CODEC

SHIPPED = "shipped"
SHIPPED_FILE = Path(__file__).with_name("mask_codec.safetensors")
PUBLISHED_SHA256, PUBLISHED_BYTES = CODEC.files[0].sha256, CODEC.size
_CODEBOOK = "_vq_vae._embedding"
_NOT_NEEDED = {"_vq_vae._ema_cluster_size", "_vq_vae._ema_w"}
"""What only its training needed; with them the published file has 49 arrays."""
_GET = (
    f"Get Google's: `segdist weights get {CODEC.name}`, and name `{CODEC.name}`; or use `shipped`, the codec that "
    "comes with segdist."
)


def open_codec(place: str = SHIPPED, *, published_sha256: str | None = PUBLISHED_SHA256) -> MaskCodec:
    """The codec with the weights of a file, ready to encode and decode on the CPU.

    Args:
        place: `shipped`, `vae-oid` for Google's, or a path or URI: `vae-oid.npz`, or what `segdist paligemma
            train-codec` wrote.
        published_sha256: the digest that an .npz file must have; None takes any file of the right arrays.

    Raises:
        WeightsError: the file is missing, damaged, or another one.
    """
    return _opened(place, published_sha256)


@lru_cache(maxsize=4)
def _opened(place: str, published_sha256: str | None) -> MaskCodec:
    file = _file(place)
    state = _published(file, _content(place), published_sha256) if file.endswith(".npz") else _ours(file)
    with torch.random.fork_rng(
        devices=[]
    ):  # else the first network of a process would draw other weights than later ones
        return _filled(file, state)


def digest(place: str = SHIPPED) -> str:
    """Sixteen hex digits that name a codec: codes mean nothing to another one.

    Raises:
        WeightsError: the file cannot be read.
    """
    return hashlib.sha256(_content(place)).hexdigest()[:16]


def save_codec(codec: MaskCodec, file: Path) -> None:
    """Write a codec in half precision, 4.1 MB; atomically."""
    state = {name: tensor.detach().half().contiguous() for name, tensor in codec.state_dict().items()}
    storage.write_atomic(str(file), save(state))


def _file(place: str) -> str:
    if place == CODEC.name:
        return str(CODEC.source())
    return str(SHIPPED_FILE) if place == SHIPPED else place


@lru_cache(maxsize=4)
def _content(place: str) -> bytes:
    file = _file(place)
    try:
        return storage.read_bytes(file)
    except StorageError as error:
        raise WeightsError(f"The mask codec {file} cannot be read: {error} {_GET}", option="codec") from error


def _ours(file: str) -> dict[str, Tensor]:
    try:
        with state_dicts.local_copy(file) as local:
            state = state_dicts.safe(local)
        state_dicts.check(state, file)
    except StorageError as error:
        raise WeightsError(f"The mask codec {file} cannot be read: {error} {_GET}", option="codec") from error
    except WeightsError as error:
        raise WeightsError(f"The mask codec {error}. {_GET}", option="codec") from error
    return state


def _published(file: str, content: bytes, sha256: str | None) -> dict[str, Tensor]:
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise WeightsError(
            f"The mask codec {file} must be Google's vae-oid.npz ({PUBLISHED_BYTES:,} bytes, sha256 {sha256}), "
            f"but has {len(content):,} bytes and sha256 {found}. {_GET}",
            option="codec",
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name not in _NOT_NEEDED}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise WeightsError(f"The mask codec {file} holds no arrays: {error} {_GET}", option="codec") from error
    return {("codebook_KD" if name == _CODEBOOK else name): tensor for name, tensor in state.items()}


def _filled(file: str, state: dict[str, Tensor]) -> MaskCodec:
    codec = MaskCodec().eval().requires_grad_(requires_grad=False)
    wanted = codec.state_dict()
    wrong = sorted(
        (wanted.keys() ^ state.keys()) | {k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape}
    )
    if wrong:
        raise WeightsError(
            f"The mask codec {file} must hold the {len(wanted)} tensors of PaliGemma's mask codec, but {len(wrong)} "
            f"are missing, too many or of another shape, {wrong[0]} for one. {_GET}",
            option="codec",
        )
    codec.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return codec
