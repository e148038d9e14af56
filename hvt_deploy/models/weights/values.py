"""Whether the tensors of a checkpoint are numbers that a model can compute with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hvt_deploy.core.errors import BadInput
from hvt_deploy.models.weights.container import show_key

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_values(path: Path, key: str, values: Tensor, dtype: torch.dtype) -> None:
    """Raise BadInput unless `values` are numbers that a tensor of `dtype` can hold."""
    kind = str(values.layout if values.layout != torch.strided else values.dtype)
    if values.is_meta:
        problem = "has no values (it was saved from the meta device)"
    elif values.is_quantized or values.layout != torch.strided or not _is_loadable(values, dtype):
        problem = f"is {kind.removeprefix('torch.')}, not plain {str(dtype).removeprefix('torch.')}"
    elif not dtype.is_floating_point or not values.numel():
        return
    else:
        lowest, highest = (float(edge) for edge in values.aminmax())
        limit = torch.finfo(dtype).max
        if -limit <= lowest and highest <= limit:  # false for NaN too
            return
        problem = f"has values that are no finite {str(dtype).removeprefix('torch.')}"
    raise BadInput(
        f"{path} cannot be loaded: {show_key(key)} {problem}.",
        "Save the weights of the trained model in float32, float16 or bfloat16, without NaN or "
        "infinity.",
    )


def _is_loadable(values: Tensor, dtype: torch.dtype) -> bool:
    return values.dtype in _FLOATS or not (dtype.is_floating_point or values.is_complex())
