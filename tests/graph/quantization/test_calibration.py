"""Thresholds, SmoothQuant, bias correction: what INT8 takes from images, on planted numbers and on
a small FDViT.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from running import run, sqnr
from threadpoolctl import threadpool_info, threadpool_limits

from hvt_deploy.core.run_config import Int8Roles, QuantizationConfig
from hvt_deploy.core.types import CALIBRATORS, RECOVERIES
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.graph.analysis.roles import LINEAR_ROLES, PRODUCT_ROLES
from hvt_deploy.graph.edit import add_outputs
from hvt_deploy.graph.quantization.bias_correction import correct_biases
from hvt_deploy.graph.quantization.calibration import (
    CalibrationImages,
    Int8Settings,
    calibrate_int8,
)
from hvt_deploy.graph.quantization.calibrators import BINS, LEVELS, choose_threshold
from hvt_deploy.graph.quantization.candidates import Candidate
from hvt_deploy.graph.quantization.channel_sums import ChannelSums, collect_channel_sums
from hvt_deploy.graph.quantization.contest import Contest
from hvt_deploy.graph.quantization.int8_calibration import (
    Effect,
    Int8Calibration,
    read_int8_calibration,
)
from hvt_deploy.graph.quantization.int8_form import make_form
from hvt_deploy.graph.quantization.logits_judge import LogitsJudge, choose_candidate, measure_gain
from hvt_deploy.graph.quantization.measured_forms import measure_forms
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.quantization.product_error import Product, find_products, read_weights
from hvt_deploy.graph.quantization.qdq import (
    INT8,
    Placement,
    find_scales,
    insert_qdq,
    quantize_int8,
    quantize_weight,
    select_nodes,
)
from hvt_deploy.graph.quantization.ranges import Ranges, collect_histograms, collect_ranges
from hvt_deploy.graph.quantization.smooth_quant import choose_smoothing, smooth, smooth_ranges
from hvt_deploy.graph.quantization.weight_rounding import round_weight
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
    assert choose_threshold(np.pad(histogram, (0, BINS)), 100, "max") == 50.0, "of other images"
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
    (found,) = open_graph(add_outputs(probed, inside), 1)(inside, [images])
    softmax = {node.output[0] for node in probed.graph.node if node.op_type == "Softmax"}
    for tensor, values in zip(inside, found, strict=True):
        low = 0 if tensor in softmax else values.min()
        assert ranges[tensor] == pytest.approx((low, values.max()), rel=1e-6, abs=1e-6), tensor


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


def local_errors(graph, images, thresholds, paired=()):
    """The form of a graph with the thresholds of one calibrator each."""
    products = tuple(find_products(graph, select_nodes(graph, PRODUCT_ROLES)))
    axes = {p.activation: p.channel_axis for p in products}
    axes |= {p.result: p.channel_axis for p in products}
    batches = [images[:3], images[3:]]
    sums = collect_channel_sums(graph, axes, thresholds, paired, batches, 1)
    return make_form(graph, Ranges({}), products, thresholds, sums)


def run_taps(graph, names, images):
    graph = type(graph).FromString(graph.SerializeToString())
    del graph.graph.output[:]
    graph.graph.output.extend(
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names
    )
    (found,) = open_graph(graph, 1)(names, [images])
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("part", [1, 0.4])
def test_local_errors_are_those_of_products_on_the_activations_of_fp32(fp32, images, ranges, part):
    """INT8 of one role at a time: behind FP32, so that the whole error is its own."""
    thresholds = {name: {"max": part * ranges.largest(name)} for name in ranges.tensors}
    form = local_errors(fp32, images, thresholds)
    for role in ("stem", "fc1", "proj"):
        chosen = [p for p in form.products if p.name in select_nodes(fp32, (role,))][:1]
        (one,) = chosen
        clipped = ranges.clip({one.activation: thresholds[one.activation]["max"]})
        placed = insert_qdq(fp32, clipped, Placement([one.name]), INT8)
        expected = run_taps(fp32, [one.result], images)[one.result]
        wrong = run_taps(placed, [one.result], images)[one.result] - expected
        found = form.errors["max"][one.name]
        axes = tuple(i for i in range(wrong.ndim) if i != one.channel_axis % wrong.ndim)
        noise = np.square(wrong).mean(axis=axes).sum()
        assert found.signal == pytest.approx(np.square(expected).mean(axis=axes).sum(), rel=1e-3)
        assert abs(10 * np.log10(found.noise / noise)) < 2
        tolerance = 0.05 if role == "stem" else 5e-3  # the stem has a border
        shift = wrong.mean(axis=axes)
        assert found.shift == pytest.approx(shift, abs=tolerance * float(np.sqrt(noise)))


def test_bias_correction_takes_the_mean_error_away(fp32, images, ranges):
    thresholds = {name: {"max": ranges.largest(name)} for name in ranges.tensors}
    form = local_errors(fp32, images, thresholds)
    first = next(p for p in form.products if p.name.endswith("0.attn.proj/MatMul"))
    adder = next(n.output[0] for n in fp32.graph.node if first.result in n.input)
    corrected = correct_biases(fp32, {first.name: form.errors["max"][first.name].shift})

    def mean_of(graph):
        return run_taps(graph, [adder], images)[adder].mean(axis=(0, 1))

    def quantize(graph):
        return insert_qdq(graph, ranges, Placement([first.name]), INT8)

    expected = mean_of(fp32)
    before = np.abs(mean_of(quantize(fp32)) - expected).max()
    after = np.abs(mean_of(quantize(corrected)) - expected).max()
    assert after < before / 20


def test_rounding_by_inputs_halves_the_error_where_they_agree(fp32, images, ranges):
    """Inputs of few dimensions: errors of weights cancel. Every channel keeps its scale."""
    rng = np.random.default_rng(0)
    product = Product("p", "x", "y", output_axis=1, channel_axis=-1)
    weight = rng.standard_normal((64, 16)).astype(np.float32)
    rows = (rng.standard_normal((400, 12)) @ rng.standard_normal((12, 64))).astype(np.float32)
    sums = ChannelSums(np.zeros(64), np.zeros(64), products=np.zeros((64, 64)))
    sums.add(rows)
    levels = round_weight(product, weight, sums)
    scales = find_scales(np.abs(weight).max(axis=0), INT8)
    plain = quantize_weight(weight, scales, axis=1)
    errors = [np.square(rows @ (w * scales - weight)).sum() for w in (plain, levels)]
    assert errors[1] < errors[0] / 2
    again = (levels * scales).astype(np.float32)
    assert np.array_equal(
        quantize_weight(again, find_scales(np.abs(again).max(axis=0), INT8), axis=1), levels
    )


def test_rounding_survives_dead_channels_and_no_inputs_at_all():
    product = Product("p", "x", "y", output_axis=0, channel_axis=-1)
    weight = np.array([[0.3, 0, -1], [0, 0, 0]], np.float32)
    for scale in (0, 1):
        sums = ChannelSums(np.zeros(3), np.zeros(3), products=np.zeros((3, 3)))
        sums.add(scale * np.array([[1, 0, 2], [3, 0, 1]], np.float32))
        assert round_weight(product, weight, sums).tolist() == [[38, 0, -127], [0, 0, 0]]


def test_every_candidate_of_one_session_is_the_graph_that_would_be_written(
    model, images, planted_ranges
):
    """Scales and biases as inputs, smoothed, clipped, corrected and rounded."""
    recipe = make_settings("auto", RECOVERIES).quantization
    measured = measure_forms(model, planted_ranges, recipe, PRODUCT_ROLES, [images], [images], 1)
    forms = measured.make_forms(model, planted_ranges, select_nodes(model, PRODUCT_ROLES))
    judge = LogitsJudge(lambda batches: map(partial(run, model), batches), [images], ())
    contest = Contest(forms, PRODUCT_ROLES, judge, 1)
    nodes = select_nodes(model, PRODUCT_ROLES)
    other = Candidate("mse")
    judge.judge(other, contest.infer(other), 2)
    for chosen in (Candidate("max"), Candidate("mix", smoothed=True, corrected=True)):
        judge.judge(chosen, contest.infer(chosen), 2)
        contest.try_rounding(chosen)
        for candidate in (chosen, replace(chosen, rounded=True)):
            (judged,) = contest.infer(candidate)([images])
            found = contest.record(candidate, recipe)
            graph = quantize_int8(found.prepare(model, nodes), found.ranges, PRODUCT_ROLES)
            assert sqnr(run(graph, images), judged) > 60, candidate
            if candidate.rounded:
                assert found.levels


def noisy(seed, sizes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, 10)).astype(np.float32) * size for size in sizes]


def judge_noise(added, seed=0):
    """The choice among logits with noise of these sizes, by candidate; the simplest first."""
    reference = noisy(1, [1.0] * 48)
    images = [np.full((1, 3, 1, 1), i, np.float32) for i in range(48)]

    def infer_with(noise):
        return lambda batches: (
            reference[int(batch[0, 0, 0, 0])] + noise[int(batch[0, 0, 0, 0])] for batch in batches
        )

    noises = {c: noisy(seed + 2 + i, sizes) for i, (c, sizes) in enumerate(added.items())}
    judge = LogitsJudge(lambda batches: iter(_take(reference, batches)), images[:32], images[32:])
    chosen = choose_candidate(list(added), lambda c: infer_with(noises[c]), judge)
    return chosen, judge


def _take(logits, batches):
    return [logits[int(batch[0, 0, 0, 0])] for batch in batches]


def test_of_equal_candidates_the_simplest_is_chosen_and_a_better_one_beats_it():
    simple, other, bad = Candidate("max"), Candidate("mse"), Candidate("entropy")
    equal = {simple: [0.010] * 48, other: [0.0100001] * 48, bad: [0.1] * 48}
    chosen, judge = judge_noise(equal)
    assert chosen == simple
    assert judge.compare(simple, bad).images == 8, "far behind: dropped"
    better, _ = judge_noise({simple: [0.010] * 48, other: [0.006] * 48, bad: [0.1] * 48})
    assert better == other


def test_the_error_of_a_gain_shrinks_with_images_that_agree():
    signal, noise = np.full(64, 100.0), np.random.default_rng(0).chisquare(4, 64)
    same = measure_gain(signal, noise, noise / 2)
    assert same.after_db - same.before_db == pytest.approx(3.01, abs=0.01)
    assert same.error_db < 1e-6 and same.exceeds(2)
    other = measure_gain(signal, noise, np.random.default_rng(1).chisquare(4, 64))
    assert 0.3 < other.error_db < 2
    few = measure_gain(signal[:8], noise[:8], np.random.default_rng(1).chisquare(4, 8))
    assert few.error_db > other.error_db


def make_settings(calibrator, recovery, rtx=PRODUCT_ROLES):
    roles = Int8Roles(rtx, PRODUCT_ROLES, PRODUCT_ROLES)
    recipe = QuantizationConfig(
        roles, int8_attention="never", calibrator=calibrator, recovery=recovery
    )
    return Int8Settings(recipe, target=None)


def test_calibration_keeps_what_helps_and_comes_back_from_its_files(
    path, model, images, planted_ranges, tmp_path
):
    settings, nodes = make_settings("auto", RECOVERIES), select_nodes(model, PRODUCT_ROLES)
    read = CalibrationImages([images[:4]], [images[:4]], [images[4:]])
    found = calibrate_int8(path, planted_ranges, settings, read, 1, SilentUi())
    effects = {effect.name: effect for effect in found.effects}
    assert list(effects) == ["smooth-quant", "calibrator auto", "bias-correction", RECOVERIES[2]]
    assert effects["smooth-quant"].kept and found.smoothing
    assert effects["weight-rounding"].kept == bool(found.levels)
    assert set(found.sqnr_by_role["fc2"]) == set(CALIBRATORS)
    expected = run(model, images)
    plain = sqnr(expected, run(quantize_int8(model, planted_ranges, PRODUCT_ROLES), images))
    graph = quantize_int8(found.prepare(model, nodes), found.ranges, PRODUCT_ROLES)
    assert sqnr(expected, run(graph, images)) > plain + 3
    found.write(tmp_path)
    again = read_int8_calibration(tmp_path)
    assert (again.ranges, again.clipping, again.effects, again.sqnr_db) == (
        found.ranges,
        found.clipping,
        found.effects,
        found.sqnr_db,
    )
    made = quantize_int8(again.prepare(model, nodes), again.ranges, PRODUCT_ROLES)
    assert made.SerializeToString() == graph.SerializeToString()


def test_linears_are_chosen_for_where_noisy_convolutions_are_not_int8(
    path, model, images, planted_ranges
):
    """The first convolution reads a tensor whose range is a thousand times what it is: next to its
    noise nobody sees what SmoothQuant gains for the planted Linear.
    """
    first = next(n for n in model.graph.node if n.op_type == "Conv").input[0]
    low, high = planted_ranges.tensors[first]
    tensors = planted_ranges.tensors | {first: (1000 * low, 1000 * high)}
    ranges = replace(planted_ranges, tensors=tensors)
    read = CalibrationImages([images[:4]], [images[:4]], [images[4:]])
    for rtx, gains in ((PRODUCT_ROLES, False), (LINEAR_ROLES, True)):
        settings = make_settings("max", ("smooth-quant",), rtx)
        found = calibrate_int8(path, ranges, settings, read, 1, SilentUi())
        assert (found.effects[0].loses_db < -3) == gains


def test_a_recipe_that_wants_int8_attention_has_it_whatever_else_is_judged(
    path, images, planted_ranges
):
    settings = make_settings("max", ("bias-correction",))
    read = CalibrationImages([images[:4]], [images[:4]], [images[4:]])
    for choice, attention in (("always", True), ("never", False)):
        recipe = replace(settings.quantization, int8_attention=choice)
        asked = replace(settings, quantization=recipe)
        assert (
            calibrate_int8(path, planted_ranges, asked, read, 1, SilentUi()).attention == attention
        )


def test_what_stays_fp32_keeps_its_weights_and_biases(model, planted_ranges):
    products = find_products(model, select_nodes(model, ("fc1",)))
    levels = {
        name: np.ones(weight.shape, np.int8)
        for name, weight in read_weights(model, products).items()
    }
    shifts = {name: np.ones(weight.shape[1]) for name, weight in levels.items()}
    found = Int8Calibration(planted_ranges, shifts=shifts, levels=levels)
    assert found.prepare(model, []).SerializeToString() == model.SerializeToString()
    first = products[0].name
    changed = found.prepare(model, [first])
    after = read_weights(changed, find_products(changed, levels))
    before = read_weights(model, products)
    assert [name for name in levels if not np.array_equal(before[name], after[name])] == [first]


def test_without_recovery_and_with_max_nothing_changes(path, model, planted_ranges, images):
    settings = make_settings("max", ())
    read = CalibrationImages([images], [images], [images])
    found = calibrate_int8(path, planted_ranges, settings, read, 1, SilentUi())
    assert found.ranges.tensors == planted_ranges.tensors
    assert found.prepare(model, select_nodes(model, PRODUCT_ROLES)) is model


@pytest.mark.parametrize(
    ("after_db", "kept", "said"),
    [
        (40.06, True, "40.0 -> 40.1 dB (+0.1 ± 0.2 on 64 images), used"),
        (40.04, True, "40.0 -> 40.0 dB (+0.0 ± 0.2 on 64 images), used"),
        (39.96, True, "40.0 -> 40.0 dB (+0.0 ± 0.2 on 64 images), used"),
        (39.94, True, "40.0 -> 39.9 dB (-0.1 ± 0.2 on 64 images), used although it loses"),
        (39.96, False, "40.0 -> 40.0 dB (+0.0 ± 0.2 on 64 images), not used"),
    ],
)
def test_only_what_is_said_to_gain_is_kept_and_only_what_is_said_to_lose_loses(
    after_db, kept, said
):
    assert str(Effect("calibrator mse", 40.0, after_db, 0.2, 64, kept)) == said


def test_numpys_threads_stand_back_in_any_program_and_come_back(exported_graph):
    """Not by an environment variable, which a program that imports the package has not set."""
    seen = []

    def images():
        seen.append({pool["num_threads"] for pool in blas()})
        yield np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)

    def blas():
        return [pool for pool in threadpool_info() if pool["user_api"] == "blas"]

    path, batches = exported_graph("hvt_demo"), list(images())
    seen.clear()
    with threadpool_limits(2, user_api="blas"):
        before = blas()
        settings = Int8Settings(QuantizationConfig(Int8Roles(*[PRODUCT_ROLES] * 3)), None)
        calibrate_int8(
            path,
            collect_ranges(path, batches, 1),
            settings,
            CalibrationImages(images(), batches, batches),
            1,
            SilentUi(),
        )
        assert (seen, blas()) == ([{1}], before)
