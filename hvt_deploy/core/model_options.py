"""Options of a model besides its name and its image size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HVTConfiguration:
    """The configuration file of an HVT, with the official key names."""

    input_size: int
    """Side of the image, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    num_heads: int
    """Attention heads."""
    num_blocks: int
    """Transformer blocks."""
    pool_kernel_size: int
    """Kernel of a pooling, tokens."""
    pool_stride: int
    """Stride of a pooling, tokens."""
    pool_block_width: int
    """Blocks between two poolings."""


@dataclass(frozen=True)
class ModelOptions:
    """Options that some models take; None means the model's own."""

    window_size: tuple[int, ...] | None = None
    """Any-resolution FasterViT: side of a window, one per level."""
    carrier_token_size: int | None = None
    """Any-resolution FasterViT: side of the carrier tokens of a window."""
    hvt: HVTConfiguration | None = None
    """HVT without a name: its configuration."""


DEFAULT_OPTIONS = ModelOptions()
