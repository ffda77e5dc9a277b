"""Conv-LoRA (Zhong et al. 2024): low-rank updates that know their neighbours.

A ViT has little sense of place; between the two low-rank matrices stand convolutions, each at a resolution of its own,
of which a gate chooses one for each image (or window).

Shapes: B images or windows, h and w tokens, C channels, R rank, E experts.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from segdist.core.errors import SpecError

BALANCE_WEIGHT = 1e-2
"""Weight of the loss that keeps all experts in use (Fedus et al. 2021, section 2.2)."""


class ConvLora(nn.Module):
    """A frozen linear layer plus W_up sum_i G(W_down x)_i E_i(W_down x) (section 3.2).

    E_i enlarges the grid of tokens i times, convolves it, and shrinks it back. G is zero but for the expert of largest
    probability, as in the paper; it is that probability, not one, so that the gate learns from the task as well
    (Fedus et al. 2021, eq. 2).
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, dropout: float, experts: int) -> None:
        super().__init__()
        self.base_layer = base
        self.scaling = alpha / rank
        self.lora_dropout = nn.Dropout(dropout)
        self.lora_down = nn.Linear(base.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, base.out_features, bias=False)
        self.lora_gate = nn.Linear(rank, experts)
        self.lora_experts = nn.ModuleList(nn.Conv2d(rank, rank, 3, padding=1) for _ in range(experts))
        nn.init.kaiming_uniform_(self.lora_down.weight, a=math.sqrt(5))  # as LoRA: the update begins with zero
        nn.init.zeros_(self.lora_up.weight)
        self._balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Takes and gives (B, h, w, C), or (B, h w, C) of a square grid."""
        small = self.lora_down(self.lora_dropout(x))
        mixed_BRhw = self._mixed(_as_grid(small).permute(0, 3, 1, 2))
        update = self.lora_up(mixed_BRhw.permute(0, 2, 3, 1).reshape(small.shape))
        out: Tensor = self.base_layer(x) + self.scaling * update
        return out

    def take_balance(self) -> Tensor | None:
        """E sum_i (share of images sent to i) (mean probability of i) of the last step in training; then forgotten."""
        balance, self._balance = self._balance, None
        return balance

    def _mixed(self, x_BRhw: Tensor) -> Tensor:
        probability_BE = self.lora_gate(x_BRhw.mean((2, 3))).float().softmax(1)
        chosen_B = probability_BE.argmax(1)
        if self.training and torch.is_grad_enabled():
            share_E = torch.bincount(chosen_B, minlength=probability_BE.shape[1]) / len(chosen_B)
            self._balance = len(share_E) * (share_E * probability_BE.mean(0)).sum()
        parts, order = [], []
        for number, expert in enumerate(self.lora_experts):
            mine = (chosen_B == number).nonzero()[:, 0]
            weight = probability_BE[mine, number][:, None, None, None]
            # An expert that was not chosen works on no image: its gradient is zero, not missing, which DDP would mind.
            parts.append(_at_scale(expert, x_BRhw[mine], number + 1) * weight)
            order.append(mine)
        return torch.cat(parts)[torch.cat(order).argsort()].to(x_BRhw.dtype)


def _at_scale(expert: nn.Module, x_BRhw: Tensor, scale: int) -> Tensor:
    """The convolution at `scale` times the resolution."""
    if scale == 1 or not len(x_BRhw):
        return expert(x_BRhw)
    large = interpolate(x_BRhw, scale_factor=float(scale), mode="bilinear", align_corners=False)
    return interpolate(expert(large), x_BRhw.shape[2:], mode="bilinear", align_corners=False)


def _as_grid(tokens: Tensor) -> Tensor:
    """(B, h, w, R).

    Raises:
        SpecError: the tokens are not those of a square grid.
    """
    if tokens.ndim == 4:
        return tokens
    side = math.isqrt(tokens.shape[1]) if tokens.ndim == 3 else 0
    if side * side != (tokens.shape[1] if tokens.ndim == 3 else -1):
        raise SpecError(
            "`conv_lora` needs layers that see a grid of tokens, (B, h, w, C) or a square (B, h w, C), "
            f"but one of `train.adapter.targets` sees {tuple(tokens.shape)}. Name other targets, or use `lora`."
        )
    return tokens.reshape(len(tokens), side, side, tokens.shape[2])
