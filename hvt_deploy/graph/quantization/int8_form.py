"""An FP32 graph with all that its INT8 forms take from images, and these forms in one session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.core.tensors import ImagesNCHW, LogitsNK
from hvt_deploy.core.types import Calibrator
from hvt_deploy.graph.quantization.bias_correction import correct_biases, find_biases
from hvt_deploy.graph.quantization.candidates import Candidate
from hvt_deploy.graph.quantization.channel_sums import ChannelSums
from hvt_deploy.graph.quantization.logits_judge import Infer
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.product_error import (
    Product,
    ProductError,
    find_error,
    measure_weight,
    read_weights,
)
from hvt_deploy.graph.quantization.qdq import INT8, find_scales, quantize_int8
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.quantization.weight_rounding import is_roundable, round_weight, set_levels

Thresholds = Mapping[str, Mapping[Calibrator, float]]
Levels = Mapping[str, NDArray[np.int8]]


@dataclass(frozen=True)
class Int8Form:
    """An FP32 graph, plain or smoothed, and its thresholds and errors in INT8."""

    model: onnx.ModelProto
    """The graph."""
    ranges: Ranges
    """Its ranges on all images."""
    products: tuple[Product, ...]
    """What is quantized."""
    thresholds: Thresholds
    """By activation and calibrator, found on a part of the images."""
    sums: Mapping[str, ChannelSums]
    """Of the activations and results of the products; none where no pass needs them."""
    errors: Mapping[Calibrator, Mapping[str, ProductError]]
    """Of the products (by name) by calibrator; none without sums."""

    def choose_calibrators(self, candidate: Candidate) -> dict[str, Calibrator]:
        """The calibrator of each activation."""
        if candidate.clipping != "mix":
            return dict.fromkeys(self.thresholds, candidate.clipping)
        readers: dict[str, list[str]] = {name: [] for name in self.thresholds}
        for product in self.products:
            readers[product.activation].append(product.name)
        return {
            tensor: min(
                found,
                key=lambda c: sum(self.errors[c][name].relative_noise for name in readers[tensor]),
            )
            for tensor, found in self.thresholds.items()
        }

    def find_shifts(self, candidate: Candidate) -> dict[str, NDArray[np.float64]]:
        """The mean errors (C,) of the products, by name; none if biases are not corrected."""
        if not candidate.corrected:
            return {}
        calibrators = self.choose_calibrators(candidate)
        return {p.name: self.errors[calibrators[p.activation]][p.name].shift for p in self.products}


def make_form(
    model: onnx.ModelProto,
    ranges: Ranges,
    products: tuple[Product, ...],
    thresholds: Thresholds,
    sums: Mapping[str, ChannelSums],
) -> Int8Form:
    """The form of `model`, with the errors of its products from their sums."""
    form = Int8Form(model, ranges, products, thresholds, sums, {})
    return replace(form, errors=_find_errors(form, {})) if sums else form


def round_form(form: Int8Form) -> tuple[Int8Form, Levels]:
    """`form` with the weights rounded by their inputs, as far as the sums have these, and their
    levels by product.
    """
    weights = read_weights(form.model, form.products)
    levels = {
        p.name: round_weight(p, weights[p.name], form.sums[p.activation])
        for p in form.products
        if is_roundable(p, weights[p.name]) and form.sums[p.activation].products is not None
    }
    return replace(
        form, model=set_levels(form.model, levels), errors=_find_errors(form, levels)
    ), levels


def _find_errors(form: Int8Form, levels: Levels) -> dict[Calibrator, dict[str, ProductError]]:
    """Weights have these levels or, where there are none, the nearest."""
    errors: dict[Calibrator, dict[str, ProductError]] = {}
    weights = read_weights(form.model, form.products)
    for p in form.products:
        norms = measure_weight(p, weights[p.name], levels.get(p.name))
        for calibrator, threshold in form.thresholds[p.activation].items():
            errors.setdefault(calibrator, {})[p.name] = find_error(
                norms, form.sums[p.activation], form.sums[p.result], threshold
            )
    return errors


class JudgedForm:
    """The INT8 forms of one FP32 graph in one session: scales and biases are its inputs."""

    def __init__(self, form: Int8Form, roles: tuple[str, ...], threads: int) -> None:
        self._form, products = form, {p.name for p in form.products}
        zeros = {
            name: np.zeros(biases.shape)
            for name, biases in _read_constants(
                form.model, find_biases(form.model, products)
            ).items()
        }
        # With a bias of its own for each product.
        model = correct_biases(form.model, zeros)
        self._names = find_biases(model, zeros)
        self._biases = _read_constants(model, self._names)
        quantized = quantize_int8(model, form.ranges, roles)
        self._scales = {
            node.input[0]: node.input[1]
            for node in quantized.graph.node
            if node.op_type == "QuantizeLinear"
        }
        shapes = dict.fromkeys(self._scales.values(), ())
        shapes |= {self._names[name]: bias.shape for name, bias in self._biases.items()}
        # An initializer that is an input has a default value.
        quantized.graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        )
        self._run = open_graph(quantized, threads)
        self._output = quantized.graph.output[0].name

    def infer(self, candidate: Candidate) -> Infer:
        """The logits of one INT8 form."""
        calibrators = self._form.choose_calibrators(candidate)
        constants: dict[str, NDArray[np.float32]] = {
            self._scales[tensor]: find_scales(
                np.array(self._form.thresholds[tensor][calibrator], np.float32), INT8
            )
            for tensor, calibrator in calibrators.items()
        }
        shifts = self._form.find_shifts(candidate)
        constants |= {
            self._names[name]: (bias - shifts[name]).astype(np.float32)
            for name, bias in self._biases.items()
            if name in shifts and bias.shape == shifts[name].shape
        }

        def run(batches: Iterable[ImagesNCHW]) -> Iterator[LogitsNK]:
            return (found[0] for found in self._run([self._output], batches, constants))

        return run


def _read_constants(
    model: onnx.ModelProto, names: Mapping[str, str]
) -> dict[str, NDArray[np.float32]]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return {key: numpy_helper.to_array(tensors[name]) for key, name in names.items()}
