"""Options of a model besides its name and its image size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HVTConfiguration:
    """The configuration file of an HVT, with the official key names. Sizes in pixels, pooling in
    tokens.
    """

    input_size: int
    patch_size: int
    num_heads: int
    num_blocks: int
    pool_kernel_size: int
    pool_stride: int
    pool_block_width: int


@dataclass(frozen=True)
class ModelOptions:
    """`window_size` (one per level) and `carrier_token_size` belong to any-resolution FasterViT,
    `hvt` to an HVT that has no name. None means the model's own.
    """

    window_size: tuple[int, ...] | None = None
    carrier_token_size: int | None = None
    hvt: HVTConfiguration | None = None


DEFAULT_OPTIONS = ModelOptions()
