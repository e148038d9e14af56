"""A fault planted in one module of a real graph is found there, in every family, in FP32 and in
INT8.
"""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hvt_deploy.evaluation.divergence import (
    LIMITS,
    NOT_FINITE,
    compare_modules,
    numbers_of,
    relative_error,
)
from hvt_deploy.evaluation.parity import draw_seeded_noise
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.module_graph import ModuleGraph, read_module_path
from hvt_deploy.graph.quantization.fp16 import to_fp16
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import collect_ranges
from hvt_deploy.graph.storage import load_onnx, save_onnx
from hvt_deploy.models import get_spec, to_deployed
from hvt_deploy.models.weights.load import load_model
from hvt_deploy.runtime.base import BackendRequest
from hvt_deploy.runtime.ort import OrtBackend, run_part
from hvt_deploy.runtime.pytorch import PyTorchBackend
from hvt_deploy.runtime.variant import Variant

DEMOS = ["fdvit_demo", "faster_vit_demo", "dfvt_demo", "hvt_demo"]


class Family:
    """The FP32, FP16 and INT8 graphs of a small model, and the model."""

    def __init__(self, exported, folder):
        manifest = exported.read()
        self.signature, self.folder = manifest.signature, folder
        self.images = draw_seeded_noise(self.signature, 2, seed=0)
        shutil.copy(exported.file(manifest.artifacts["fp32"]), folder / "fp32.onnx")
        fp32 = load_onnx(folder / "fp32.onnx")
        ranges = collect_ranges(folder / "fp32.onnx", [self.images], 1)
        save_onnx(quantize_int8(fp32, ranges, PRODUCT_ROLES), folder / "int8.onnx")
        save_onnx(to_fp16(fp32, ranges).model, folder / "fp16.onnx")
        model, _ = load_model(
            get_spec(manifest.model), exported.file(manifest.artifacts["pytorch"]), 10
        )
        self.pytorch = PyTorchBackend(Variant("pytorch", "cpu", "fp32"), to_deployed(model), 1)

    def ort(self, path):
        return OrtBackend(
            BackendRequest(Variant("ort", "cpu", "fp32"), path, "m", self.signature, 1)
        )

    def compare(self, path):
        graph = ModuleGraph(path)
        reference = (
            self.pytorch
            if numbers_of(graph.model) == "fp32"
            else self.ort(self.folder / "fp32.onnx")
        )

        def run(part, inputs):
            return run_part(part, inputs, "cpu", 1, self.folder)

        compared = compare_modules(reference, self.ort(path), graph, run, self.images)
        return graph, [error for error, _ in compared]

    def jumps(self, path):
        graph, errors = self.compare(path)
        limit = LIMITS[numbers_of(graph.model)]
        return [error for error in errors if error.local_error > limit]

    def plant(self, graph, initializer, change):
        """A copy of a graph with one initializer changed."""
        model = load_onnx(self.folder / graph)
        tensor = next(t for t in model.graph.initializer if t.name == initializer)
        values = numpy_helper.to_array(tensor).copy()
        change(values)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, self.folder / "planted.onnx")
        return self.folder / "planted.onnx"


@pytest.fixture(scope="module", params=DEMOS)
def family(request, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Family(exported(folder, request.param), folder)


def weighted(graph):
    """Linears and convolutions whose module has one output, with the name of their weight."""
    weights = {t.name for t in graph.model.graph.initializer}
    return [
        (read_module_path(n.name), n.input[1])
        for n in graph.model.graph.node
        if n.op_type in ("Conv", "MatMul", "Gemm")
        and n.input[1] in weights
        and read_module_path(n.name) in graph.outputs
    ]


def test_sound_graphs_have_no_jump_and_nearly_every_module_is_compared(family):
    for name in ("fp32", "fp16", "int8"):
        graph, errors = family.compare(family.folder / f"{name}.onnx")
        assert [e for e in errors if e.local_error > LIMITS[numbers_of(graph.model)]] == []
        compared = {error.tensor for error in errors}
        assert len(set(graph.outputs.values()) - compared) <= 1
        assert {graph.outputs[path] for path, _ in weighted(graph)} <= compared


def test_one_weight_of_one_module_is_found(family):
    found = weighted(ModuleGraph(family.folder / "fp32.onnx"))
    path, weight = found[int(0.6 * len(found))]

    def change(values):
        values.flat[values.size // 2] += 0.1 * np.abs(values).max()

    jumps = family.jumps(family.plant("fp32.onnx", weight, change))
    assert [jump.path for jump in jumps] == [path]


def test_a_scale_of_an_input_is_found_in_int8(family):
    model = load_onnx(family.folder / "int8.onnx")
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    chosen = quantizers[len(quantizers) // 2]
    dequantized = next(
        n.output[0] for n in model.graph.node if n.input and n.input[0] == chosen.output[0]
    )
    takers = {read_module_path(n.name) for n in model.graph.node if dequantized in n.input}

    def change(values):
        values /= 8

    jumps = family.jumps(family.plant("int8.onnx", chosen.input[1], change))
    assert {jump.path for jump in jumps} == takers


def test_a_scale_of_one_channel_of_a_weight_is_found_in_int8(family):
    model = load_onnx(family.folder / "int8.onnx")
    scales = {
        t.name: t for t in model.graph.initializer if len(t.dims) == 1 and t.name.endswith("_scale")
    }
    dequantizers = [
        n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[1] in scales
    ]
    chosen = dequantizers[len(dequantizers) // 3]
    (path,) = {read_module_path(n.name) for n in model.graph.node if chosen.output[0] in n.input}

    def change(values):
        values[3] *= 2

    jumps = family.jumps(family.plant("int8.onnx", chosen.input[1], change))
    assert [jump.path for jump in jumps] == [path]


def test_an_error_in_one_channel_counts_as_if_it_were_in_all():
    reference = np.random.default_rng(0).standard_normal((2, 64, 8, 8)).astype(np.float32)
    wrong = reference.copy()
    wrong[:, 5] *= 1.1
    assert 0.07 < relative_error(reference, wrong) < 0.13
    assert relative_error(reference, 1.1 * reference) == pytest.approx(0.1, rel=0.3)
    assert relative_error(reference, reference) == 0
    wrong[0, 0, 0, 0] = np.nan
    assert relative_error(reference, wrong) == NOT_FINITE
    assert relative_error(wrong, reference) == relative_error(wrong, wrong) == NOT_FINITE
    wrong[0, 0, 0, 0] = -np.inf
    assert relative_error(wrong, wrong) == 0  # a mask
    assert relative_error(0 * reference, reference) == NOT_FINITE
    assert relative_error(0 * reference, 0 * reference) == 0
