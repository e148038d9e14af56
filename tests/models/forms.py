"""Weights that show every term of a model, and how far two results are apart."""

from __future__ import annotations

from collections.abc import Callable

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


def norms(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def triple_gains(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)


def negate_scales(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and not name.endswith("bias"):
            parameter.data.neg_()


def zero_layer_scales(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "gamma" in name:
            parameter.data.zero_()


def zero_norm_scales(model: nn.Module) -> None:
    for norm in norms(model, nn.LayerNorm) + norms(model, nn.BatchNorm2d):
        norm.weight.data.zero_()


def shrink_norm_scales(model: nn.Module) -> None:
    for norm in norms(model, nn.LayerNorm) + norms(model, nn.BatchNorm2d):
        norm.weight.data.mul_(1e-9)


def zero_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.zero_()


def enlarge_biases(model: nn.Module) -> None:
    """All but the head's, next to which every other difference would vanish."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and not name.startswith("head."):
            parameter.data.mul_(1000)


def shrink_variances(model: nn.Module) -> None:
    for norm in norms(model, nn.BatchNorm2d):
        norm.running_var.fill_(1e-12)


def make_variances_negative(model: nn.Module) -> None:
    """As rounding leaves them, and epsilon still makes up for it."""
    for norm in norms(model, nn.BatchNorm2d):
        norm.running_var.fill_(-0.9 * norm.eps)


def enlarge_means(model: nn.Module) -> None:
    for norm in norms(model, nn.BatchNorm2d):
        norm.running_mean.mul_(1e4)


def mix_all(model: nn.Module) -> None:
    """Another change for every tensor, and zeros, tiny variances and large means among others."""
    for i, parameter in enumerate(model.parameters()):
        if i % 5 == 4:
            parameter.data[::3] = 0
        else:
            parameter.data.mul_((3, -1, 1, 30 if parameter.ndim == 1 else -2)[i % 5])
    for norm in norms(model, nn.BatchNorm2d):
        norm.running_var[::2] = 1e-9
        norm.running_mean[::3] *= 1000


# What training, pruning and other people's files leave behind, on weights that are all in use.
HOSTILE: dict[str, Callable[[nn.Module], None]] = {
    "gains": triple_gains,
    "mixed": mix_all,
    "negative scales": negate_scales,
    "zero layer scales": zero_layer_scales,
    "zero norm scales": zero_norm_scales,
    "tiny norm scales": shrink_norm_scales,
    "zero weights": zero_weights,
    "large biases": enlarge_biases,
    "tiny variances": shrink_variances,
    "negative variances": make_variances_negative,
    "large means": enlarge_means,
}
