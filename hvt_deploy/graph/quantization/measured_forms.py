"""What INT8 takes from images, for a graph as it is and smoothed: one pass for the thresholds, one
for the sums that the errors of products and the rounding of weights follow from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hvt_deploy.core.run_config import QuantizationConfig
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.types import CALIBRATORS, Calibrator
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.quantization.calibrators import choose_threshold
from hvt_deploy.graph.quantization.channel_sums import ChannelSums, collect_channel_sums
from hvt_deploy.graph.quantization.int8_form import Int8Form, make_form
from hvt_deploy.graph.quantization.product_error import Product, find_products, read_weights
from hvt_deploy.graph.quantization.qdq import select_nodes
from hvt_deploy.graph.quantization.ranges import Ranges, collect_histograms
from hvt_deploy.graph.quantization.smooth_quant import (
    choose_smoothing,
    find_smoothed,
    smooth,
    smooth_ranges,
)
from hvt_deploy.graph.quantization.weight_rounding import is_roundable

_SMOOTHED = "/smoothed"


@dataclass(frozen=True)
class MeasuredForms:
    """The forms of one graph, in which some of the products are to be decided."""

    plain: Int8Form
    """The graph as it is."""
    smoothed: Int8Form | None
    """The smoothed graph; None where nothing can be smoothed or is to be."""
    smoothing: Mapping[str, NDArray[np.float32]]
    """The scales (C,) of the smoothed one, by the name of the normalization."""


@dataclass(frozen=True)
class Measured:
    """What the products of a graph take from images."""

    products: tuple[Product, ...]
    """What is quantized."""
    thresholds: Mapping[str, Mapping[Calibrator, float]]
    """By activation, also by that of the smoothed graph, and calibrator."""
    sums: Mapping[str, ChannelSums]
    """Of the same activations and the results of the products."""
    smoothing: Mapping[str, NDArray[np.float32]]
    """Scales (C,) by the name of the normalization."""
    smoothed: Mapping[str, str]
    """The normalization of each activation that smoothing changes."""

    def make_forms(
        self,
        model: onnx.ModelProto,
        ranges: Ranges,
        nodes: Collection[str],
        decided: Collection[str] = (),
    ) -> MeasuredForms:
        """The forms of the products among `nodes` in `model`, where those of `decided` are decided,
        and with them every activation that they read.
        """
        taken = {p.activation for p in self.products if p.name in decided}
        products = tuple(p for p in self.products if p.name in nodes and p.activation not in taken)
        others = {self.smoothed.get(p.activation) for p in self.products if p not in products}
        smoothing = {name: s_C for name, s_C in self.smoothing.items() if name not in others}
        names = {
            tensor: f"{tensor}{_SMOOTHED}"
            for tensor, normalization in self.smoothed.items()
            if normalization in smoothing
        }
        plain = self._make_form(model, ranges, products, {})
        if not names:
            return MeasuredForms(plain, None, {})
        smoothed = self._make_form(
            smooth(model, smoothing), smooth_ranges(model, ranges, smoothing), products, names
        )
        return MeasuredForms(plain, smoothed, smoothing)

    def _make_form(
        self,
        model: onnx.ModelProto,
        ranges: Ranges,
        products: tuple[Product, ...],
        names: Mapping[str, str],
    ) -> Int8Form:
        return make_form(
            model,
            ranges,
            products,
            {
                p.activation: self.thresholds[names.get(p.activation, p.activation)]
                for p in products
            },
            {
                **self.sums,
                **{tensor: self.sums[name] for tensor, name in names.items() if name in self.sums},
            },
        )


@dataclass(frozen=True)
class _Probe:
    """The graph that is measured: with the smoothed activations beside the plain ones."""

    model: onnx.ModelProto
    """The FP32 graph."""
    largest: Mapping[str, float]
    """The largest magnitude of each activation to measure, on all images."""
    axes: Mapping[str, int]
    """The axis of the channels of each."""
    factors: Mapping[str, NDArray[np.float32]]
    """1 / s (C,), by the plain name of a smoothed activation."""


def measure_forms(
    model: onnx.ModelProto,
    ranges: Ranges,
    recipe: QuantizationConfig,
    roles: Sequence[str],
    found_on: Iterable[ImagesNCHW],
    some: Sequence[ImagesNCHW],
    threads: int,
) -> Measured:
    """Thresholds from `found_on`, sums from `some`: batches (N, 3, H, W) of images."""
    nodes = select_nodes(model, roles)
    products = tuple(find_products(model, nodes))
    smoothing: Mapping[str, NDArray[np.float32]] = {}
    if "smooth-quant" in recipe.recovery:
        smoothing = choose_smoothing(model, ranges, nodes)
    probe = _add_smoothed(
        model, products, ranges, smooth_ranges(model, ranges, smoothing), smoothing
    )
    thresholds = _find_thresholds(probe, recipe, found_on, threads)
    sums = _collect_sums(probe, products, thresholds, recipe, some, threads)
    smoothed = find_smoothed(model, smoothing)
    normalizations = {name: smoothed[name] for name in probe.factors}
    return Measured(products, thresholds, sums, smoothing, normalizations)


def _add_smoothed(
    model: onnx.ModelProto,
    products: Sequence[Product],
    ranges: Ranges,
    smoothed_ranges: Ranges,
    smoothing: Mapping[str, NDArray[np.float32]],
) -> _Probe:
    probed, normalizations = copy_model(model), find_smoothed(model, smoothing)
    axes = {p.activation: p.channel_axis for p in products}
    largest = {name: ranges.largest(name) for name in axes}
    factors: dict[str, NDArray[np.float32]] = {}
    for name in [name for name in axes if name in normalizations]:
        factors[name] = np.array(1 / smoothing[normalizations[name]], np.float32)
        smoothed, constant = f"{name}{_SMOOTHED}", f"{name}{_SMOOTHED}/factor"
        probed.graph.initializer.append(numpy_helper.from_array(factors[name], constant))
        probed.graph.node.append(helper.make_node("Mul", [name, constant], [smoothed]))
        axes[smoothed], largest[smoothed] = axes[name], smoothed_ranges.largest(name)
    return _Probe(probed, largest, axes, factors)


def _find_thresholds(
    probe: _Probe, recipe: QuantizationConfig, batches: Iterable[ImagesNCHW], threads: int
) -> dict[str, dict[Calibrator, float]]:
    """By activation and calibrator; `max` alone needs no image again."""
    if recipe.calibrator == "max":
        return {name: {"max": largest} for name, largest in probe.largest.items()}
    whole = Ranges({name: (-largest, largest) for name, largest in probe.largest.items()})
    histograms = collect_histograms(probe.model, whole, list(probe.largest), batches, threads)
    named = CALIBRATORS if recipe.calibrator == "auto" else ("max", recipe.calibrator)
    return {
        name: {c: choose_threshold(histogram, probe.largest[name], c) for c in named}
        for name, histogram in histograms.items()
    }


def _collect_sums(
    probe: _Probe,
    products: Sequence[Product],
    thresholds: Mapping[str, Mapping[Calibrator, float]],
    recipe: QuantizationConfig,
    batches: Sequence[ImagesNCHW],
    threads: int,
) -> dict[str, ChannelSums]:
    if recipe.calibrator == "max" and recipe.recovery in ((), ("smooth-quant",)):
        return {}
    weights = read_weights(probe.model, products)
    rounds = "weight-rounding" in recipe.recovery
    paired = {p.activation for p in products if rounds and is_roundable(p, weights[p.name])}
    axes = {**probe.axes, **{p.result: p.channel_axis for p in products}}
    sums = collect_channel_sums(probe.model, axes, thresholds, paired, batches, threads)
    for name, factor in probe.factors.items():
        if (plain := sums[name].products) is not None:
            sums[f"{name}{_SMOOTHED}"].products = plain * np.outer(factor, factor)
    return sums
