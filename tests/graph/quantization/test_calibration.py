"""Thresholds, SmoothQuant, bias correction: what INT8 takes from images, on planted numbers and on
a small FDViT.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from running import run, sqnr

from hvt_deploy.core.run_config import Int8Roles, QuantizationConfig
from hvt_deploy.core.types import CALIBRATORS
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.graph.analysis.roles import PRODUCT_ROLES
from hvt_deploy.graph.quantization.bias_correction import correct_biases
from hvt_deploy.graph.quantization.calibration import (
    CalibrationImages,
    Int8Settings,
    calibrate_int8,
)
from hvt_deploy.graph.quantization.calibrators import BINS, LEVELS, choose_threshold
from hvt_deploy.graph.quantization.int8_calibration import read_int8_calibration
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.product_error import measure_products
from hvt_deploy.graph.quantization.qdq import quantize_int8, select_nodes
from hvt_deploy.graph.quantization.ranges import collect_histograms, collect_ranges
from hvt_deploy.graph.quantization.smooth_quant import choose_smoothing, smooth, smooth_ranges
from hvt_deploy.graph.storage import load_onnx, save_onnx


def histogram_of(values):
    largest = np.abs(values).max()
    return np.histogram(np.abs(values), BINS, (0, largest))[0], float(largest)


def error_of(values, threshold):
    scale = threshold / LEVELS
    return np.square(values - np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale).mean()


@pytest.mark.parametrize("calibrator", ["percentile", "entropy", "mse"])
def test_an_outlier_far_from_everything_else_is_clipped(calibrator):
    values = np.append(np.random.default_rng(0).standard_normal(100_000), 50.0)
    histogram, largest = histogram_of(values)
    assert choose_threshold(histogram, largest, "max") == 50.0
    assert 3 < choose_threshold(histogram, largest, calibrator) < 40


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_a_flat_distribution_is_hardly_clipped(calibrator):
    values = np.random.default_rng(1).uniform(-1, 1, 100_000)
    histogram, largest = histogram_of(values)
    assert 0.95 <= choose_threshold(histogram, largest, calibrator) / largest <= 1


@pytest.mark.parametrize("zero_below", [0, 1])
def test_zeros_behind_a_relu_do_not_move_the_threshold_of_entropy(zero_below):
    values = np.maximum(np.random.default_rng(3).standard_normal(100_000) - zero_below, 0)
    histogram, largest = histogram_of(values)
    threshold = choose_threshold(histogram, largest, "entropy")
    assert threshold == choose_threshold(*histogram_of(values[values > 0]), "entropy")
    assert error_of(values, threshold) < 1.5 * error_of(values, largest)


def test_mse_finds_about_the_smallest_error_there_is():
    values = np.random.default_rng(2).laplace(size=200_000)
    histogram, largest = histogram_of(values)
    smallest = min(error_of(values, t) for t in np.linspace(largest / 20, largest, 200))
    assert error_of(values, choose_threshold(histogram, largest, "mse")) <= 1.02 * smallest
    assert error_of(values, largest) > 1.3 * smallest, "else the test shows nothing"


def test_a_tensor_of_zeros_has_a_threshold():
    assert choose_threshold(np.zeros(BINS, np.int64), 0.0, "entropy") == 0.0


@pytest.fixture(scope="module")
def model(fp32):
    """The small FDViT with an outlier channel planted before the first Linear: the same function in
    FP32.
    """
    planted = type(fp32)()
    planted.CopyFrom(fp32)
    tensors = {tensor.name: tensor for tensor in planted.graph.initializer}
    qkv = next(n for n in planted.graph.node if n.name == "transformers.0.blocks.0.attn.qkv/MatMul")
    norm = next(n for n in planted.graph.node if n.output[0] == qkv.input[0])
    for name, factor in ((norm.input[1], 200), (norm.input[2], 200), (qkv.input[1], 1 / 200)):
        values = numpy_helper.to_array(tensors[name]).copy()
        values[3] *= factor
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    return planted


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "m.onnx"
    save_onnx(model, path)
    return path


@pytest.fixture(scope="module")
def planted_ranges(path, images):
    return collect_ranges(path, [images[:4], images[4:]], threads=1)


def test_histograms_count_every_value_of_every_batch(model, planted_ranges, images):
    tensors = ["images", model.graph.node[0].output[0]]
    batches = [images[:2], images[2:]]
    one = collect_histograms(model, planted_ranges, tensors, [images], threads=1)
    several = collect_histograms(model, planted_ranges, tensors, batches, threads=1)
    assert one["images"].sum() == images.size
    expected = np.histogram(np.abs(images), BINS, (0, planted_ranges.largest("images")))[0]
    assert np.abs(one["images"] - expected).sum() <= 4, "but for values on an edge"
    for name in tensors:
        assert np.array_equal(one[name], several[name])


def test_smoothing_changes_nothing_in_fp32_and_saves_int8_from_an_outlier_channel(
    path, model, images, planted_ranges
):
    scales = choose_smoothing(model, planted_ranges, select_nodes(model, PRODUCT_ROLES))
    norms = [name for name in scales if name.startswith("transformers.0.blocks.0.attn.norm")]
    assert int(np.argmax(scales[norms[0]])) == 3
    smoothed = smooth(model, scales)
    expected = run(model, images)
    assert np.abs(run(smoothed, images) - expected).max() <= 2e-5 * np.abs(expected).max()
    ranges = smooth_ranges(model, planted_ranges, scales)
    before = sqnr(expected, run(quantize_int8(model, planted_ranges, PRODUCT_ROLES), images))
    after = sqnr(expected, run(quantize_int8(smoothed, ranges, PRODUCT_ROLES), images))
    assert after > before + 3


def test_ranges_after_smoothing_are_those_that_images_would_show(
    path, model, images, planted_ranges
):
    scales = choose_smoothing(model, planted_ranges, select_nodes(model, PRODUCT_ROLES))
    smoothed_path = path.with_name("smoothed.onnx")
    save_onnx(smooth(model, scales), smoothed_path)
    measured = collect_ranges(smoothed_path, [images], threads=1).tensors
    found = smooth_ranges(model, planted_ranges, scales).tensors
    assert found.keys() == measured.keys()
    changed = [name for name, ends in found.items() if ends != planted_ranges.tensors[name]]
    assert len(changed) == len(scales)
    for name, ends in measured.items():
        size = max(map(abs, ends))
        assert found[name] == pytest.approx(ends, rel=1e-4, abs=1e-4 * size), name


def test_smoothing_reaches_a_linear_behind_another_layout(tmp_path):
    windows = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 4, 6] images) =>
        (float[N, 2, 2, 3] logits) <int64[4] windows = {-1, 2, 2, 6}, float[6] ones =
        {1, 1, 90, 1, 1, 1}, float[6] zeros = {0, 0, 3, 0, 0, 0}> {
        [norm] x = LayerNormalization (images, ones, zeros) [cut] y = Reshape (x, windows)
        [turn] z = Transpose <perm = [0, 2, 1, 3]> (y) [qkv] logits = MatMul (z, w) }"""
    )
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3)).astype(np.float32)
    windows.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    save_onnx(windows, tmp_path / "m.onnx")
    images = rng.standard_normal((8, 4, 6)).astype(np.float32)
    ranges = collect_ranges(tmp_path / "m.onnx", [images[:3], images[3:]], threads=1)
    assert ranges.tensors["x"] == ranges.tensors["y"] == ranges.tensors["z"]
    scales = choose_smoothing(windows, ranges, ["qkv"])
    save_onnx(smooth(windows, scales), tmp_path / "s.onnx")
    measured = collect_ranges(tmp_path / "s.onnx", [images], threads=1).tensors
    found = smooth_ranges(windows, ranges, scales).tensors
    assert found["z"] != ranges.tensors["z"]
    for name, ends in measured.items():
        assert found[name] == pytest.approx(ends, rel=1e-4), name


@pytest.mark.parametrize(("name", "pixels"), [("fdvit_demo", 32), ("faster_vit_demo", 64)])
def test_every_range_is_that_of_the_values(name, pixels, exported_graph):
    path = exported_graph(name)
    probed = onnx.shape_inference.infer_shapes(load_onnx(path))
    images = np.random.default_rng(0).standard_normal((6, 3, pixels, pixels), dtype=np.float32)
    ranges = collect_ranges(path, [images[:4], images[4:]], threads=1).tensors
    inside = [value.name for value in probed.graph.value_info if value.name in ranges]
    assert len(inside) > 100
    probed.graph.output.extend(
        helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None) for tensor in inside
    )
    (found,) = open_graph(probed, path.parent, 1)(inside, [images])
    for tensor, values in zip(inside, found, strict=True):
        assert ranges[tensor] == pytest.approx((values.min(), values.max()), rel=1e-6, abs=1e-6), (
            tensor
        )


def test_a_range_follows_a_negative_factor_and_what_is_taken_away_from_a_constant(tmp_path):
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N, 3] images) => (float[N, 3] logits)
        <float[1] two = {-2.0}, float[3] bias = {1.0, 2.0, -5.0}, float[3, 3] w =
        {1, 0, 0, 0, 1, 0, 0, 0, 1}> { product = MatMul (images, w)
        shifted = Add (product, bias) turned = Mul (two, shifted) rest = Sub (two, turned)
        inverse = Div (two, rest) logits = Relu (inverse) }"""
    )
    save_onnx(model, tmp_path / "m.onnx")
    images = np.array([[1, -1.5, 0.5], [3, 0.25, -4]], np.float32)
    ranges = collect_ranges(tmp_path / "m.onnx", [images[:1], images[1:]], threads=2).tensors
    shifted = images + np.array([1, 2, -5], np.float32)
    values = {"shifted": shifted, "turned": -2 * shifted, "rest": -2 + 2 * shifted}
    values |= {"inverse": -2 / values["rest"]}
    for tensor, expected in (*values.items(), ("logits", np.maximum(values["inverse"], 0))):
        assert ranges[tensor] == (expected.min(), expected.max()), tensor


def test_a_normalization_that_another_node_reads_is_not_smoothed(model, planted_ranges):
    nodes = select_nodes(model, PRODUCT_ROLES)
    some = choose_smoothing(model, planted_ranges, nodes)
    without_fc1 = [name for name in nodes if ".fc1/" not in name]
    fewer = choose_smoothing(model, planted_ranges, without_fc1)
    assert {name for name in some if "norm2" in name} and not {
        name for name in fewer if "norm2" in name
    }


def test_a_model_with_nothing_to_smooth_or_to_look_into_is_calibrated_all_the_same(
    model, planted_ranges, images
):
    assert choose_smoothing(model, planted_ranges, ()) == {}
    only = collect_histograms(model, planted_ranges, ["images"], [images], threads=1)
    assert {name: counts.sum() for name, counts in only.items()} == {"images": images.size}


def test_products_are_measured_on_the_activations_of_fp32(model, images, planted_ranges):
    fc1 = quantize_int8(model, planted_ranges, ("fc1",))
    everything = quantize_int8(model, planted_ranges, PRODUCT_ROLES)
    whole = {"max": planted_ranges}
    alone = measure_products(model, fc1, whole, [images[:4], images[4:]], 1)["max"]
    together = measure_products(model, everything, whole, [images], 1)["max"]
    assert len(together) == len(select_nodes(model, PRODUCT_ROLES))
    assert alone
    for name, error in alone.items():
        assert 0 < error.relative_noise < 0.01
        assert error.noise == pytest.approx(together[name].noise, rel=1e-3)
        assert np.allclose(
            error.shift, together[name].shift, atol=1e-5 + 1e-3 * np.abs(error.shift).max()
        )


def test_every_calibrator_is_measured_as_if_alone(model, images, planted_ranges):
    activation = next(n for n in model.graph.node if "0.mlp.fc1/MatMul" in n.name).input[0]
    half = planted_ranges.clip({activation: planted_ranges.largest(activation) / 2})
    errors = measure_products(
        model,
        quantize_int8(model, planted_ranges, ("fc1",)),
        {"max": planted_ranges, "mse": half},
        [images],
        1,
    )
    for calibrator, ranges in (("max", planted_ranges), ("mse", half)):
        quantized = quantize_int8(model, ranges, ("fc1",))
        (alone,) = measure_products(model, quantized, {calibrator: ranges}, [images], 1).values()
        for name, error in alone.items():
            assert error.noise == pytest.approx(errors[calibrator][name].noise, rel=1e-5)
    different = [n for n, e in errors["max"].items() if e.noise != errors["mse"][n].noise]
    assert len(different) == 1


def test_bias_correction_takes_the_mean_error_away(model, images, planted_ranges):
    quantized = quantize_int8(model, planted_ranges, ("proj",))
    errors = measure_products(model, quantized, {"max": planted_ranges}, [images], 1)["max"]
    corrected = correct_biases(model, {name: error.shift for name, error in errors.items()})
    first = "transformers.0.blocks.0.attn.proj/Add"
    outputs = {n.name: n.output[0] for n in model.graph.node}

    def mean_of(graph):
        graph = type(graph).FromString(graph.SerializeToString())
        del graph.graph.output[:]
        graph.graph.output.add().name = outputs[first]
        return run(graph, images, optimize=False).mean(axis=(0, 1))

    expected = mean_of(model)
    before = np.abs(mean_of(quantized) - expected).max()
    after = np.abs(mean_of(quantize_int8(corrected, planted_ranges, ("proj",))) - expected).max()
    assert after < before / 20


def make_settings(calibrator, recovery):
    roles = Int8Roles(PRODUCT_ROLES, PRODUCT_ROLES, PRODUCT_ROLES)
    recipe = QuantizationConfig(
        roles, int8_attention="never", calibrator=calibrator, recovery=recovery
    )
    return Int8Settings(recipe, target=None)


def test_calibration_keeps_what_helps_and_comes_back_from_its_files(
    path, model, images, planted_ranges, tmp_path
):
    settings = make_settings("auto", ("smooth-quant", "bias-correction"))
    read = CalibrationImages([images], [images[:4]], [images[4:]])
    found = calibrate_int8(path, planted_ranges, settings, read, 1, SilentUi())
    effects = {effect.name: effect for effect in found.effects}
    assert list(effects) == ["smooth-quant", "calibrator auto", "bias-correction"]
    assert effects["smooth-quant"].kept and found.smoothing
    worth_db = {"calibrator auto": 0.5}
    assert all(
        e.kept == (e.after_db > e.before_db + worth_db.get(name, 0.1))
        for name, e in effects.items()
    )
    assert set(found.sqnr_by_role["fc2"]) == set(CALIBRATORS)
    expected = run(model, images)
    plain = sqnr(expected, run(quantize_int8(model, planted_ranges, PRODUCT_ROLES), images))
    graph = quantize_int8(found.prepare(model), found.ranges, PRODUCT_ROLES)
    assert sqnr(expected, run(graph, images)) > plain + 3
    found.write(tmp_path)
    again = read_int8_calibration(tmp_path)
    assert (again.ranges, again.clipping, again.effects) == (
        found.ranges,
        found.clipping,
        found.effects,
    )
    made = quantize_int8(again.prepare(model), again.ranges, PRODUCT_ROLES)
    assert made.SerializeToString() == graph.SerializeToString()


def test_without_recovery_and_with_max_nothing_changes(path, model, planted_ranges, images):
    settings = make_settings("max", ())
    read = CalibrationImages([images], [images], [images])
    found = calibrate_int8(path, planted_ranges, settings, read, 1, SilentUi())
    assert found.ranges.tensors == planted_ranges.tensors
    assert found.prepare(model) is model
