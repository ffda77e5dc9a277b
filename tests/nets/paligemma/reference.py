"""The mask codec in float64 NumPy, written from the description of its layers: loops over taps."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.float32]]


def published_arrays(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random arrays with the names and shapes of `vae-oid.npz`: 49 of them."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (before, after) in zip((0, 2, 4, 6), ((1, 16), (16, 32), (32, 64), (64, 128)), strict=True):
        shapes[f"encoder.{number}"] = (after, before, 4, 4)
        shapes[f"decoder.{number + 4}"] = ((128, 128, 64, 32)[number // 2], (128, 64, 32, 16)[number // 2], 4, 4)
    for part in ("encoder.8", "encoder.9", "decoder.2", "decoder.3"):
        for number, side in ((0, 3), (2, 3), (4, 1)):
            shapes[f"{part}.net.{number}"] = (128, 128, side, side)
    shapes |= {"encoder.10": (512, 128, 1, 1), "decoder.0": (128, 512, 1, 1), "decoder.12": (1, 16, 1, 1)}
    arrays = {}
    for name, shape in shapes.items():
        transposed = name in {f"decoder.{n}" for n in (4, 6, 8, 10)}
        spread = 1.4 / np.sqrt(np.prod(shape[1:]) if not transposed else shape[0] * 4)
        arrays[f"{name}.weight"] = rng.normal(0, spread, shape).astype(np.float32)
        arrays[f"{name}.bias"] = rng.normal(0, 0.1, shape[1 if transposed else 0]).astype(np.float32)
    for name, shape in (("_embedding", (128, 512)), ("_ema_w", (128, 512)), ("_ema_cluster_size", (128,))):
        arrays[f"_vq_vae.{name}"] = rng.normal(0, 0.3, shape).astype(np.float32)
    return arrays


def npz(arrays: Arrays) -> bytes:
    """The bytes of the file that holds them."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # NumPy's hint forgets that names are free
    return stream.getvalue()


def distances(arrays: Arrays, cover_SS: Array) -> Array:
    """(16, 128) squared distance of each place of one mask to each code vector."""
    x = 2.0 * (cover_SS[None] - 0.5)
    for number in (0, 2, 4, 6):
        x = np.maximum(_convolved(arrays, f"encoder.{number}", x, stride=2, padding=1), 0)
    for number in (8, 9):
        x = _residual(arrays, f"encoder.{number}", x)
    x = _convolved(arrays, "encoder.10", x, stride=1, padding=0)
    flat = x.reshape(512, 16).T
    book = arrays["_vq_vae._embedding"].astype(np.float64)
    return np.asarray(((flat[:, None] - book[None]) ** 2).sum(-1))


def decoded(arrays: Arrays, codes: list[int]) -> Array:
    """(64, 64) logits of one mask."""
    x = arrays["_vq_vae._embedding"].astype(np.float64)[codes].T.reshape(512, 4, 4)
    x = np.maximum(_convolved(arrays, "decoder.0", x, stride=1, padding=0), 0)
    for number in (2, 3):
        x = _residual(arrays, f"decoder.{number}", x)
    for number in (4, 6, 8, 10):
        x = np.maximum(_spread(arrays, f"decoder.{number}", x), 0)
    return _convolved(arrays, "decoder.12", x, stride=1, padding=0)[0]


def _residual(arrays: Arrays, name: str, x: Array) -> Array:
    y = np.maximum(_convolved(arrays, f"{name}.net.0", x, stride=1, padding=1), 0)
    y = np.maximum(_convolved(arrays, f"{name}.net.2", y, stride=1, padding=1), 0)
    return x + _convolved(arrays, f"{name}.net.4", y, stride=1, padding=0)


def _convolved(arrays: Arrays, name: str, x: Array, *, stride: int, padding: int) -> Array:
    weight, bias = (arrays[f"{name}.{k}"].astype(np.float64) for k in ("weight", "bias"))
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    side = (x.shape[1] - weight.shape[2]) // stride + 1
    y = np.zeros((weight.shape[0], side, side)) + bias[:, None, None]
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            taken = x[:, i : i + side * stride : stride, j : j + side * stride : stride]
            y += np.einsum("oc,chw->ohw", weight[:, :, i, j], taken)
    return y


def _spread(arrays: Arrays, name: str, x: Array) -> Array:
    """A transposed convolution k4 s2: each input adds its kernel to the output at twice its place, less one."""
    weight, bias = (arrays[f"{name}.{k}"].astype(np.float64) for k in ("weight", "bias"))
    side = x.shape[1]
    whole = np.zeros((weight.shape[1], 2 * side + 2, 2 * side + 2))
    for i in range(4):
        for j in range(4):
            whole[:, i : i + 2 * side : 2, j : j + 2 * side : 2] += np.einsum("co,chw->ohw", weight[:, :, i, j], x)
    return whole[:, 1:-1, 1:-1] + bias[:, None, None]
