"""`export mine.onnx`: files of other exporters through every command, and those that cannot be
taken.
"""

from __future__ import annotations

import json
import shutil
import tarfile

import numpy as np
import onnx
import pytest
from command_line import run, run_without_torch
from foreign_files import (
    IMAGES,
    LOGITS,
    POOLED,
    make_swin,
    value,
    write_graph,
    write_legacy,
)
from onnx import TensorProto, helper, numpy_helper

from hvt_deploy.data.digits import write_digits
from hvt_deploy.graph.analysis.roles import find_role

PREPROCESSING = ("--preprocessing", "crop_pct=1,mean=[0.5,0.5,0.5],std=[0.5,0.5,0.5]")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an exported file and its INT8 graphs."""
    place = tmp_path_factory.mktemp("place")
    write_digits(place / "digits")
    write_legacy(make_swin(), place / "mine.onnx")
    (place / "names.txt").write_text("\n".join("0123456"))
    done = run("export", "mine.onnx", *PREPROCESSING, "--class-names", "names.txt", cwd=place)
    assert done.returncode == 0, done.stderr
    for digit in "789":
        shutil.rmtree(place / "digits/validation" / digit)
    flags = ("--calib", "digits/calibration", "--calib-images", "8", "--calibrator", "max")
    done = run("quantize", "--int8", "--no-smooth-quant", "--no-bias-correction", *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def read_manifest(place, slug="mine"):
    return json.loads((place / "artifacts" / slug / "manifest.json").read_text())


def test_the_file_is_the_reference_and_its_names_and_opset_are_kept(place):
    manifest = read_manifest(place)
    signature = manifest["signature"]
    assert (signature["input_name"], signature["output_name"]) == ("input", "output")
    fp32 = manifest["artifacts"]["fp32"]["facts"]
    assert (fp32["opset"], fp32["parity"]["same_argmax"]) == (17, True)
    assert fp32["parity"]["relative_to_largest"] < 1e-5
    assert "pytorch" not in manifest["artifacts"]
    assert manifest["weights"]["untrained"] is False


def test_int8_is_placed_by_the_roles_that_were_found_in_it(place):
    int8 = read_manifest(place)["artifacts"]["int8"]
    graph = onnx.load(place / "artifacts/mine" / int8["folder"] / int8["main"]).graph
    made = {node.output[0]: node for node in graph.node}
    roles = [find_role(node, ()) for node in graph.node if node.op_type == "MatMul"]
    assert (roles.count("attention score"), roles.count("attention value")) == (3, 3)
    quantized = [
        all(made[name].op_type == "DequantizeLinear" for name in node.input)
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm") and node.name.split("/")[0].endswith(".fc1")
    ]
    assert quantized == [True] * 3


def test_it_is_validated_against_the_file_and_without_pytorch(place):
    done = run_without_torch(
        "validate", "--data", "digits/validation", "--limit", "21", "--record", cwd=place
    )
    assert done.returncode == 0, done.stderr
    assert "ort fp32 given" in done.stdout
    assert "PyTorch" not in done.stdout
    results = read_manifest(place)["artifacts"]["results"]
    rows = json.loads((place / "artifacts/mine" / results["folder"] / "results.json").read_text())[
        "rows"
    ]
    assert rows[0]["backend"] == "ort fp32 given"
    assert rows[1]["backend"] == "ort fp32"
    done = run("bundle", "--output", "mine.tar", cwd=place)
    assert done.returncode == 0, done.stderr
    with tarfile.open(place / "mine.tar") as archive:
        files = archive.getnames()
    assert any("fp32" in name for name in files)
    assert not any("given" in name for name in files)


def test_each_graph_is_diagnosed_against_fp32(place):
    done = run("diagnose", "--data", "digits/validation", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "ort int8 matches ort fp32" in done.stdout
    assert "was compared with the ONNX file" in done.stderr


def test_the_same_file_is_taken_and_a_changed_one_exported_again(place):
    flags = (*PREPROCESSING, "--class-names", "names.txt")
    done = run("export", "mine.onnx", *flags, cwd=place)
    assert (done.returncode, "Exported before" in done.stderr) == (0, True)
    write_graph(place / "other.onnx")
    assert run("export", "other.onnx", cwd=place).returncode == 0
    model = onnx.load(place / "other.onnx")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 5), np.float32), "w"))
    onnx.save(model, place / "other.onnx")
    done = run("export", "other.onnx", cwd=place)
    assert (done.returncode, "Exported before" in done.stderr) == (0, False)
    changed = read_manifest(place, "other")["artifacts"]["fp32"]
    graph = onnx.load(place / "artifacts/other" / changed["folder"] / changed["main"]).graph
    assert numpy_helper.to_array(graph.initializer[0]).max() == 1


def constant(name, *numbers):
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


BAKED = (*POOLED, helper.make_node("MatMul", ["f", "w"], ["z"]))
FANCY = helper.make_node("Fancy", ["f"], ["g"], name="my_fancy", domain="com.mine")
FROM_FANCY = helper.make_node("MatMul", ["g", "w"], ["y"])
MIXED = helper.make_node("ReduceMean", ["f", "zero"], ["m"], keepdims=1)
QUANTIZED = helper.make_node("DequantizeLinear", ["q", "s"], ["w2"])
FILES = {
    "two inputs": {"images": (IMAGES, value("mask", ["n", 8]))},
    "two outputs": {"logits": (LOGITS, value("f", ["n", 3]))},
    "dynamic height": {"images": (value("x", ["n", 3, "h", "w"]),)},
    "custom operator": {"nodes": (*POOLED, FANCY, FROM_FANCY), "domain": "com.mine"},
    "channels last": {"images": (value("x", ["n", 8, 8, 3]),)},
    "half": {"images": (value("x", ["n", 3, 8, 8], TensorProto.FLOAT16),)},
    "no classifier": {
        "nodes": (helper.make_node("Relu", ["x"], ["y"]),),
        "logits": (value("y", ["n", 3, 8, 8]),),
    },
    "baked-in batch": {
        "nodes": (*BAKED, helper.make_node("Reshape", ["z", "shape"], ["y"])),
        "constants": (constant("shape", 1, 5),),
    },
    "mixed images": {
        "nodes": (
            *POOLED, MIXED, helper.make_node("Add", ["f", "m"], ["g"]), FROM_FANCY,
        ),
        "constants": (constant("zero", 0),),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "flags", "why"),
    [
        ("two inputs", (), "has 2 inputs: x (n, 3, 8, 8), mask (n, 8)"),
        ("two outputs", (), "has 2 outputs: y (n, 5), f (n, 3)"),
        ("dynamic height", (), "Give the size: --image-size HxW"),
        ("custom operator", (), "com.mine::Fancy (node my_fancy)"),
        ("channels last", (), "channels come last"),
        ("half", (), "the input x is float16"),
        ("no classifier", (), "the output y has the shape (n, 3, 8, 8)"),
        ("baked-in batch", (), "baked into the graph: a batch of"),
        ("mixed images", (), "gives other logits than a larger batch"),
        ("plain", ("--batch", "2", "--num-classes", "9"), "has 5 classes, 9 were asked for"),
        ("plain", ("--weights", "random"), "The weights of an ONNX file are in it"),
        ("plain", ("--image-size", "9x9"), "takes 8x8 images only"),
        ("fixed", ("--batch", "3"), "takes batches of exactly 2"),
    ],
)
def test_what_cannot_be_taken_is_named(tmp_path, kind, flags, why):
    fixed = {"images": (value("x", [2, 3, 8, 8]),), "logits": (value("y", [2, 5]),)}
    settings = {**FILES, "plain": {}, "fixed": fixed}[kind]
    write_graph(tmp_path / "mine.onnx", **settings)
    done = run("export", "mine.onnx", *flags, cwd=tmp_path)
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "artifacts/mine/manifest.json").exists()


def test_missing_external_weights_and_files_that_are_no_onnx_are_named(tmp_path):
    model = onnx.load(write_graph(tmp_path / "mine.onnx"))
    onnx.save(
        model,
        tmp_path / "mine.onnx",
        save_as_external_data=True,
        location="mine.bin",
        size_threshold=0,
    )
    (tmp_path / "mine.bin").unlink()
    (tmp_path / "garbage.onnx").write_bytes(b"hello" * 99)
    for name, why in (
        ("mine", "mine.bin is not there"),
        ("garbage", "garbage.onnx is not an ONNX file"),
        ("none", "There is no file none.onnx"),
    ):
        done = run("export", f"{name}.onnx", cwd=tmp_path)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr


def test_a_batch_size_and_an_image_size_are_fixed_on_demand(tmp_path):
    write_graph(tmp_path / "baked.onnx", **FILES["baked-in batch"])
    write_graph(tmp_path / "open.onnx", **FILES["dynamic height"])
    for name, flags, expected in (
        ("baked", ("--batch", "1"), (1, [8, 8])),
        ("open", ("--image-size", "16x24"), (None, [16, 24])),
    ):
        done = run("export", f"{name}.onnx", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        signature = read_manifest(tmp_path, name)["signature"]
        assert (signature["batch"], signature["image_size"]) == expected


def test_operators_that_tensorrt_lacks_and_probabilities_are_said(tmp_path):
    nodes = (
        *POOLED,
        helper.make_node("Reshape", ["nine", "square"], ["q"]),
        helper.make_node("MatMul", ["f", "w9"], ["nine"]),
        helper.make_node("Det", ["q"], ["d"]),
        helper.make_node("Unsqueeze", ["d", "one"], ["u"]),
        helper.make_node("Mul", ["f", "u"], ["g"]),
        helper.make_node("MatMul", ["g", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"]),
    )
    nodes = (*nodes[:2], nodes[3], nodes[2], *nodes[4:])
    nine = numpy_helper.from_array(np.eye(3, 9, dtype=np.float32), "w9")
    constants = (nine, constant("square", -1, 3, 3), constant("one", 1))
    write_graph(tmp_path / "mine.onnx", nodes, constants=constants)
    done = run("export", "mine.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "TensorRT lacks operators of this graph" in done.stderr
    assert "Det (" in done.stderr
    assert "that of a Softmax" in done.stderr
