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
    LAST,
    LOGITS,
    POOLED,
    make_swin,
    value,
    write_graph,
    write_legacy,
)
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.transformers.float16 import convert_float_to_float16

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


def test_fp32_is_diagnosed_against_the_file(place):
    flags = ("--graph", "fp32", "--data", "digits/validation", "--json")
    done = run("diagnose", *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    (fp32,) = json.loads(done.stdout)
    assert (fp32["reference"], fp32["candidate"]) == ("ort fp32 given", "ort fp32")
    modules = [module["path"] for module in fp32["modules"]]
    assert {"features.1.0.norm1", "features.3.1.mlp.0.fc1", "features.3.1", "head"} <= {*modules}
    assert max(module["local_error"] for module in fp32["modules"]) < 1e-5


def test_a_wrong_weight_is_found_in_its_module(place):
    """As an error of the import would be."""
    fp32 = read_manifest(place)["artifacts"]["fp32"]
    model = onnx.load(place / "artifacts/mine" / fp32["folder"] / fp32["main"])
    node = next(n for n in model.graph.node if n.name.startswith("features.3.1.mlp.0.fc1/MatMul"))
    tensor = next(t for t in model.graph.initializer if t.name in node.input)
    values = numpy_helper.to_array(tensor).copy()
    values[7, 5] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, place / "wrong.onnx")
    done = run("diagnose", "--graph", "wrong.onnx", "--data", "digits/validation", cwd=place)
    assert done.returncode == 1, done.stderr
    assert "wrong diverges from ort fp32 given at features.3.1.mlp.0.fc1" in done.stdout


def test_without_the_file_only_other_precisions_are_diagnosed(place, tmp_path):
    shutil.copytree(place / "artifacts", tmp_path / "artifacts")
    given = read_manifest(tmp_path)["artifacts"]["given"]
    (tmp_path / "artifacts/mine" / given["folder"] / given["main"]).unlink()
    done = run("diagnose", "--data", place / "digits/validation", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The ONNX file is not here" in done.stderr
    assert "ort int8 matches ort fp32" in done.stdout


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
    "one number": {
        "nodes": (*POOLED, helper.make_node("ReduceMean", ["f", "axis"], ["y"], keepdims=1)),
        "constants": (constant("axis", 1),),
        "logits": (value("y", ["n", 1]),),
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
        ("one number", (), "is one number an image, which is no choice of a class"),
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


class Images(CalibrationDataReader):
    left = 2

    def get_next(self):
        self.left -= 1
        return {"x": np.full((2, 3, 8, 8), self.left, np.float32)} if self.left >= 0 else None


def write_lower_precision(path, precision):
    """A small classifier as ONNX Runtime's own tools lower its precision."""
    nodes = (
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Add", ["c", "c"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        *(POOLED[1], LAST),
    )
    kernel = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "k")
    write_graph(path, nodes, constants=(kernel,))
    if precision == "fp16":
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
    elif precision == "dynamic":
        quantize_dynamic(path, path)
    else:
        quantize_static(path, path, Images(), quant_format=precision)


@pytest.mark.parametrize(
    ("precision", "why"),
    [
        (QuantFormat.QDQ, "quantized already (DequantizeLinear, QuantizeLinear)"),
        (QuantFormat.QOperator, "QLinearAdd, QLinearConv"),
        ("dynamic", "quantized already (ConvInteger, DynamicQuantizeLinear, MatMulInteger)"),
        ("fp16", "is FP16 or BF16 already"),
    ],
)
def test_a_file_of_lower_precision_is_refused(tmp_path, precision, why):
    write_lower_precision(tmp_path / "mine.onnx", precision)
    done = run("export", "mine.onnx", cwd=tmp_path)
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    assert "Give the FP32 file" in done.stderr
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


@pytest.mark.parametrize(("preprocessing", "said"), [("crop_pct=1", True), ("mean=[0,0,0]", False)])
def test_a_file_that_normalizes_its_images_itself_is_told_of_the_second_time(
    tmp_path, preprocessing, said
):
    nodes = (
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normal"]),
        helper.make_node("GlobalAveragePool", ["normal"], ["p"]),
        *POOLED[1:],
        LAST,
    )
    shape = np.ones((3, 1, 1), np.float32)
    constants = [numpy_helper.from_array(shape * n, name) for name, n in (("mean", 2), ("std", 3))]
    write_graph(tmp_path / "mine.onnx", nodes, constants=constants)
    done = run("export", "mine.onnx", "--preprocessing", preprocessing, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("prepares its images itself (Sub, Div)" in done.stderr) == said


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
