"""An ONNX file whose weights stay in it gives the same numbers, and a broken one an error."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper

from hvt_deploy.core.errors import BadInput
from hvt_deploy.graph.edit import copy_model
from hvt_deploy.graph.quantization.ort_session import open_graph
from hvt_deploy.graph.storage import load_onnx, save_onnx, write_onnx
from hvt_deploy.graph.weights_in_file import load_without_weights, read_weight


@pytest.fixture
def file(fp32, tmp_path):
    path = tmp_path / "m.onnx"
    save_onnx(fp32, path)
    return path


def test_the_graph_and_its_weights_are_those_of_the_file(file):
    (file.parent / "backup.onnx").hardlink_to(file)
    whole, found = load_onnx(file), load_without_weights(file)
    assert found.ByteSize() < whole.ByteSize() / 4
    for expected, tensor in zip(whole.graph.initializer, found.graph.initializer, strict=True):
        values = read_weight(tensor, file.parent)
        np.testing.assert_array_equal(values, numpy_helper.to_array(expected))
    del whole.graph.initializer[:], found.graph.initializer[:]
    assert found == whole


def test_onnx_runtime_runs_it_from_there(file, images):
    run = open_graph(load_without_weights(file), 1, file.parent)
    ((logits_NK,),) = run(["logits"], [images])
    expected_NK = onnxruntime.InferenceSession(file).run(None, {"images": images})[0]
    np.testing.assert_allclose(logits_NK, expected_NK, rtol=1e-4, atol=1e-5)


def test_weights_of_another_file_stay_there(fp32, tmp_path):
    write_onnx(copy_model(fp32), tmp_path / "m.onnx", weights_name="m.onnx.data")
    found = load_without_weights(tmp_path / "m.onnx")
    places = {e.value for t in found.graph.initializer for e in t.external_data if e.key[0] == "l"}
    assert "m.onnx.data" in places and "m.onnx" not in places


def test_a_broken_file_is_bad_input(file):
    with pytest.raises(BadInput, match="missing"):
        load_without_weights(file.with_name("else.onnx"))
    whole = file.read_bytes()
    for length in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="truncated"):
            load_without_weights(file)
    for garbage in (b"\xff" * 99, b"no ONNX file at all", bytes(99)):
        file.write_bytes(garbage)
        with pytest.raises(BadInput, match="not an ONNX file"):
            load_without_weights(file)
