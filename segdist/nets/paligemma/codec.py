"""Masks as sixteen codes and back: the VQ-VAE of PaliGemma's segmentation tokens (Ning et al. 2023, section 3.2).

Shapes: N masks of 64 x 64, D = 512 values a code vector, K = 128 codes; a mask is a grid of 4 x 4 codes, row by row.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segdist.nets.paligemma.answers import CODEBOOK_SIZE, NUM_CODES

SIDE = 64
GRID = 4
CODE_DIM = 512
_WIDTHS = (16, 32, 64, 128)
_AT_ONCE = 64
"""Masks in one pass: more only take memory."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a 1x1, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The same shape."""
        return x_NCHW + self.net(x_NCHW)


class MaskCodec(nn.Module):
    """The codec; names and shapes of its tensors are those of the published file, see `codec_files`."""

    codebook_KD: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_down(), *(ResidualBlock(128) for _ in range(2)), nn.Conv2d(128, CODE_DIM, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(CODE_DIM, 128, 1), nn.ReLU(), *(ResidualBlock(128) for _ in range(2)), *_up(), nn.Conv2d(16, 1, 1)
        )
        self.register_buffer("codebook_KD", torch.randn(CODEBOOK_SIZE, CODE_DIM))

    def embed(self, cover_N1SS: Tensor) -> Tensor:
        """(N, 4, 4, D) what the codes are to stand for.

        Args:
            cover_N1SS: (N, 1, 64, 64) how much of each pixel of the box is covered, 0..1; see `crops.crop`.
        """
        embedded: Tensor = self.encoder(2.0 * (cover_N1SS - 0.5))
        return embedded.permute(0, 2, 3, 1)

    def nearest(self, embedded_NhwD: Tensor) -> Tensor:
        """(N, 16) the index of the nearest code vector of each place, the first of equals."""
        flat_PD = embedded_NhwD.reshape(-1, CODE_DIM)
        distances_PK = flat_PD.square().sum(1, keepdim=True) + self.codebook_KD.square().sum(1)
        return (distances_PK - 2 * flat_PD @ self.codebook_KD.T).argmin(1).reshape(-1, NUM_CODES)

    def unembed(self, embedded_NhwD: Tensor) -> Tensor:
        """(N, 64, 64) logits of a mask over its box from its sixteen vectors; a pixel is set where they are above 0."""
        logits_N1SS: Tensor = self.decoder(embedded_NhwD.permute(0, 3, 1, 2))
        return logits_N1SS[:, 0]

    @torch.inference_mode()
    def encode(self, covers_NSS: NDArray[np.uint8]) -> list[tuple[int, ...]]:
        """Sixteen codes a mask.

        Args:
            covers_NSS: (N, 64, 64) coverage of each pixel of the box, 0..255.
        """
        found: list[tuple[int, ...]] = []
        for part in _parts(torch.from_numpy(covers_NSS)):
            cover_N1SS = part[:, None].to(self.codebook_KD.device, torch.float32) / 255
            found += [tuple(codes) for codes in self.nearest(self.embed(cover_N1SS)).tolist()]
        return found

    @torch.inference_mode()
    def decode(self, codes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, 64, 64) logits of masks from their codes."""
        logits = [torch.zeros(0, SIDE, SIDE)]
        for part in _parts(torch.tensor(codes, dtype=torch.long).reshape(-1, NUM_CODES)):
            vectors_N16D = self.codebook_KD[part.to(self.codebook_KD.device)]
            logits.append(self.unembed(vectors_N16D.reshape(-1, GRID, GRID, CODE_DIM)).float().cpu())
        return torch.cat(logits).numpy()


def _parts(whole: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(whole), _AT_ONCE):
        yield whole[start : start + _AT_ONCE]


def _down() -> Iterator[nn.Module]:
    """64 x 64 to 4 x 4."""
    for before, after in zip((1, *_WIDTHS), _WIDTHS, strict=False):
        yield nn.Conv2d(before, after, 4, stride=2, padding=1)
        yield nn.ReLU()


def _up() -> Iterator[nn.Module]:
    """4 x 4 to 64 x 64."""
    for before, after in zip((128, *_WIDTHS[::-1]), _WIDTHS[::-1], strict=False):
        yield nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        yield nn.ReLU()
