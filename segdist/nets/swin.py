"""Shapes of the Swin backbone (Liu et al. 2021) for the families that build on transformers' own."""

from transformers import SwinConfig

_STAGES = ["stage1", "stage2", "stage3", "stage4"]


def tiny() -> SwinConfig:
    """Swin-T as published."""
    return SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7, out_features=_STAGES)


def debug() -> SwinConfig:
    """One block for each stage, a third as wide: trains on a laptop's CPU."""
    return SwinConfig(
        embed_dim=32,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        drop_path_rate=0.0,
        out_features=_STAGES,
    )
