"""The numbers that a model computes in: autocast, the scaler that float16 needs, and what a GPU's matrix units take."""

from contextlib import AbstractContextManager, nullcontext

import torch

from segdist.core.spec import Precision


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """What autocast computes in; float32 where it does nothing."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type != "cuda":
        return torch.float32
    # A card before Ampere emulates bfloat16, many times slower than it computes in float16.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Within the block the network computes in the precision."""
    dtype = dtype_of(precision, device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def scaler_for(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Keeps gradients in the range of float16; does nothing in any other precision."""
    return torch.amp.GradScaler(device.type, enabled=dtype_of(precision, device) == torch.float16)


def set_matrix_products(precision: Precision, device: torch.device) -> None:
    """On a GPU, what is left in float32 is multiplied as TF32 (19 bits), unless float32 was asked for."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "float32"  # of convolutions, which by default are TF32
