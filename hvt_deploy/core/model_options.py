"""Options of a model besides its name and its image size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from hvt_deploy.core.types import Between

_Count = Annotated[int, Between(1, 4096)]
Hyperparameter: TypeAlias = bool | int | float | tuple[int, ...] | None
_Side = Annotated[int, Between(1, 16384)]


@dataclass(frozen=True)
class HVTConfiguration:
    """The configuration file of an HVT, with the official key names."""

    input_size: _Count
    """Side of the image, pixels."""
    patch_size: _Count
    """Side of a patch, pixels."""
    num_heads: _Count
    """Attention heads."""
    num_blocks: _Count
    """Transformer blocks."""
    pool_kernel_size: _Count
    """Kernel of a pooling, tokens."""
    pool_stride: _Count
    """Stride of a pooling, tokens."""
    pool_block_width: _Count
    """Blocks between two poolings."""


@dataclass(frozen=True)
class FactorySource:
    """The code of a user's network, `module:factory`, as the export found it."""

    folder: str
    """Folder that the module is imported from, besides the installed packages."""
    files: Mapping[str, str]
    """sha256 by path of the user's own files that were imported."""
    num_classes: int
    """Classes of the network."""
    takes_num_classes: bool
    """Whether the factory is called with `num_classes`."""
    head: str = ""
    """Module path of its classifier, where that is its last Linear."""


@dataclass(frozen=True)
class OnnxSource:
    """An ONNX file of another exporter, as the export found it."""

    path: str
    """The file."""
    sha256: str
    """Of the file and its external weights."""
    input_name: str
    """Name of its input."""
    output_name: str
    """Name of its output."""
    image_size: tuple[_Side, _Side]
    """(height, width) of the input, pixels."""
    num_classes: int
    """Classes of the output."""
    batch: int | None
    """Its fixed batch size; null means any."""
    opset: int
    """Its operator set, or the nearest that hvt-deploy writes."""


@dataclass(frozen=True)
class ModelOptions:
    """Options that some models take; None means the model's own."""

    window_size: Annotated[tuple[_Count, ...], Between(1, 16)] | None = None
    """Any-resolution FasterViT: side of a window, one per level."""
    carrier_token_size: _Count | None = None
    """Any-resolution FasterViT: side of the carrier tokens of a window."""
    hvt: HVTConfiguration | None = None
    """HVT without a name: its configuration."""
    factory: FactorySource | None = None
    """A user's own network: its code."""
    architecture: Mapping[str, Hyperparameter] | None = None
    """Own sizes of a named model of the four families: hyper-parameters in place of its own."""
    onnx_file: OnnxSource | None = None
    """A network from an ONNX file: that file."""


DEFAULT_OPTIONS = ModelOptions()


def is_onnx_file(name: str) -> bool:
    """Whether a model's name is the path of an ONNX file."""
    return name.endswith(".onnx")
