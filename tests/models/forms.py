"""Weights that show every term of a model, and how far two results are apart."""

from __future__ import annotations

import torch
from torch import nn


def deviation(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value - reference).abs().max() / reference.abs().max()).item()


def scatter(model: nn.Module) -> None:
    """Gives every parameter and statistic a value that matters, layer scales of 1e-5 and zero
    biases among them.
    """
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data.add_(0.3 * noise if parameter.ndim <= 1 else 0.1 * noise)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(0.2 * torch.randn(buffer.shape, generator=generator, dtype=buffer.dtype))
        elif name.endswith("running_var"):
            buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
