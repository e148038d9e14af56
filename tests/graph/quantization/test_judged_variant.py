"""The CPU variant is judged by its logits: nodes that lose compute in floating point."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser
from running import run, sqnr

from hvt_deploy.graph.quantization.judged_variant import make_judged_variant
from hvt_deploy.graph.quantization.qdq import quantize_int8
from hvt_deploy.graph.quantization.ranges import Ranges, collect_ranges
from hvt_deploy.graph.storage import save_onnx

CONVS = 9


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Nine convolutions with ReLUs, the ranges of their tensors on eight images, and those."""
    rng = np.random.default_rng(0)
    weights = ", ".join(
        f"float[8, {8 if i else 3}, 1, 1] w{i} = "
        f"{{{', '.join(map(str, (rng.standard_normal(64 if i else 24) / 3).round(3)))}}}"
        for i in range(CONVS)
    )
    lines = " ".join(
        f"c{i} = Conv ({f'a{i - 1}' if i else 'images'}, w{i}) a{i} = Tanh (c{i})"
        for i in range(CONVS)
    )
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g
        (float[N, 3, 8, 8] images) => (float[N, 8] logits) <{weights}> {{
        {lines} mean = GlobalAveragePool (a{CONVS - 1}) logits = Flatten (mean) }}"""
    )
    for node in model.graph.node:
        node.name = f"blocks.0.{node.output[0]}/{node.op_type}"
    path = tmp_path_factory.mktemp("planted") / "m.onnx"
    save_onnx(model, path)
    images = rng.standard_normal((8, 3, 8, 8), np.float32)
    return model, collect_ranges(path, [images], threads=1), images


def leave(model):
    """The weights are in it."""
    return model


def judge(planted, ranges):
    """The judged variant of the planted graph with these ranges of its convolutions' results."""
    model, measured, images = planted
    signed = quantize_int8(model, measured, ("conv",))
    reference = run(model, images)
    return make_judged_variant(signed, ranges, reference, lambda one: run(one, images), leave)


def test_a_variant_that_loses_nothing_is_whole(planted):
    found = judge(planted, planted[1])
    assert found.kept_fp32 == ()
    np.testing.assert_array_equal(found.logits_NK, run(found.model, planted[2]))


@pytest.mark.parametrize("lossy", [{3}, {0, 7}])
def test_the_convolutions_that_lose_and_no_others_are_left_out(planted, lossy):
    model, measured, images = planted
    # One image of the calibration was an outlier.
    outliers = {f"c{i}": (-2000.0, 2000.0) for i in lossy}
    found = judge(planted, Ranges({**measured.tensors, **outliers}))
    assert {kept.node for kept in found.kept_fp32} == {f"blocks.0.c{i}/Conv" for i in lossy}
    reference = run(model, images)
    assert sqnr(reference, found.logits_NK) > sqnr(reference, found.numerics_NK) - 1
    np.testing.assert_array_equal(found.logits_NK, run(found.model, images))


def test_a_variant_that_no_node_can_mend_is_whole(planted):
    """What is wrong is not the nodes: they are not taken out one by one."""
    model, measured, images = planted
    signed = quantize_int8(model, measured, ("conv",))
    trials = []

    def infer(one):
        trials.append(one)
        logits_NK = run(one, images)
        return logits_NK if len(trials) == 1 else np.full_like(logits_NK, np.nan)

    found = make_judged_variant(signed, measured, run(model, images), infer, leave)
    assert found.kept_fp32 == ()
    assert len(trials) == 3


@pytest.mark.parametrize(("noise", "trials"), [(1.2, 2), (1.3, 3)])
def test_a_loss_below_1_db_is_none(planted, noise, trials):
    """Noise powers of 1 in the engine's numerics, the first that are asked for."""
    model, measured, _ = planted
    signed = quantize_int8(model, measured, ("conv",))
    asked = []

    def infer(one):
        asked.append(one)
        return np.full((8, 8), 1 if len(asked) == 1 else noise**0.5, np.float32)

    make_judged_variant(signed, measured, np.zeros((8, 8), np.float32), infer, leave)
    assert len(asked) == trials
