"""ONNX files of others: that are none, that point outside, that are invalid or never end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from kinds import Kind
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

_FLOAT, _NAME = TensorProto.FLOAT, "mine.onnx"
_EXPORT = ("export", _NAME)
_FLATTEN = helper.make_node("Flatten", ["x"], ["f"], name="flatten")
_HEAD = helper.make_node("Gemm", ["f", "w", "b"], ["y"], name="head")
_INVALID = "is not a valid ONNX file"
_CANNOT_OPEN = "ONNX Runtime cannot open the file"
_MINE = "mine"  # the domain of functions


def _make(
    *middle: NodeProto,
    nodes: Sequence[NodeProto] = (),
    image: Sequence[int | str] = ("n", 3, 8, 8),
    kind: int = _FLOAT,
    logits: Sequence[int | str] = ("n", 5),
    output: str = "y",
    opset: int = 17,
    scale: float = 1.0,
) -> ModelProto:
    """A Linear, or `nodes`; `middle` are between its flattening and itself, or read nothing."""
    weight = scale * np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
    graph = helper.make_graph(
        nodes or [_FLATTEN, *middle, _HEAD],
        "graph",
        [helper.make_tensor_value_info("x", kind, image)],
        [helper.make_tensor_value_info(output, _FLOAT, logits)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(5, "f4"), "b")],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(_MINE, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _outside(location: str, **entries: object) -> ModelProto:
    """Its weight is in another file."""
    model = _make()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def _weight(**fields: object) -> ModelProto:
    """With other fields of its weight."""
    model = _make()
    for name, value in fields.items():
        if name == "dims":
            model.graph.initializer[0].dims[:] = value
        else:
            setattr(model.graph.initializer[0], name, value)
    return model


def _function(name: str, *calls: str) -> FunctionProto:
    values = ["a", *(f"t{i}" for i in range(1, len(calls))), "o"]
    nodes = [
        helper.make_node(call, [read], [made], domain=_MINE if call.startswith("F") else "")
        for call, (read, made) in zip(calls, pairwise(values), strict=True)
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_MINE, 1)]
    return helper.make_function(_MINE, name, ["a"], ["o"], nodes, opsets)


def _call(name: str, *functions: FunctionProto) -> ModelProto:
    model = _make(helper.make_node(name, ["x"], ["z"], domain=_MINE))
    model.functions.extend(functions)
    return model


def _doubling() -> ModelProto:
    """2^40 nodes when its functions are written out."""
    larger = (_function(f"F{i}", f"F{i - 1}", f"F{i - 1}") for i in range(1, 41))
    return _call("F40", _function("F0", "Relu"), *larger)


def _changed(change: Callable[[ModelProto], object]) -> ModelProto:
    model = _make()
    change(model)
    return model


def _fill(size: int) -> ModelProto:
    """Makes a tensor of that size in each inference."""
    size_of = numpy_helper.from_array(np.array([size], np.int64), "size")
    nodes = (
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["f", "sum"], ["g"]),
        helper.make_node("Gemm", ["g", "w", "b"], ["y"]),
    )
    model = _make(nodes=(_FLATTEN, *nodes))
    model.graph.initializer.append(size_of)
    return model


_CIRCLE = (
    helper.make_node("Add", ["f", "c"], ["d"], name="one"),
    helper.make_node("Identity", ["d"], ["c"], name="other"),
)
MODELS: dict[str, tuple[Callable[[], ModelProto | bytes], str]] = {
    "empty": (lambda: b"", "holds no ONNX graph"),
    "text": (lambda: b"hello", "not an ONNX file"),
    "cut off": (lambda: _make().SerializeToString()[:-500], "not an ONNX file"),
    "weights far outside": (lambda: _outside("../../../etc/passwd"), "outside its folder"),
    "weights by an absolute path": (lambda: _outside("/etc/passwd"), "outside its folder"),
    "weights in a missing file": (lambda: _outside("gone.bin"), "are missing"),
    "weights in a folder": (lambda: _outside("validation"), "are missing"),
    "weights in a name with a NUL": (lambda: _outside("a\0b"), _INVALID),
    "weights before a file": (lambda: _outside("notes.txt", offset=-5), _INVALID),
    "weights at an offset of text": (lambda: _outside("notes.txt", offset="x"), _INVALID),
    "a weight of 2^80 values": (lambda: _weight(dims=[2**40, 2**40]), _INVALID),
    "a weight of a negative size": (lambda: _weight(dims=[-3, 5]), _INVALID),
    "a weight larger than its bytes": (lambda: _weight(dims=[10**6, 10**6]), _INVALID),
    "a weight without bytes": (lambda: _weight(raw_data=b""), _INVALID),
    "a weight of an unknown type": (lambda: _weight(data_type=99), _INVALID),
    "weights that are NaN": (lambda: _make(scale=np.nan), "logits .* are not finite"),
    "nodes in a circle": (lambda: _make(*_CIRCLE), _INVALID),
    "an output that nothing makes": (lambda: _make(output="gone"), _INVALID),
    "no nodes": (lambda: _changed(lambda m: m.graph.ClearField("node")), "holds no ONNX graph"),
    "no inputs": (lambda: _changed(lambda m: m.graph.ClearField("input")), "has 0 inputs"),
    "no operator set": (lambda: _changed(lambda m: m.ClearField("opset_import")), _INVALID),
    "an operator that does not exist": (lambda: _make(helper.make_node("No", ["x"], [])), _INVALID),
    "an operator of nobody": (
        lambda: _make(helper.make_node("No", ["x"], ["z"], domain="com.nobody")),
        "custom operators",
    ),
    "texts as input": (lambda: _make(kind=TensorProto.STRING), "expected float32 images"),
    "integers as input": (lambda: _make(kind=TensorProto.INT64), "expected float32 images"),
    "images of no size": (lambda: _make(image=("n", 3, -8, -8)), "--image-size"),
    "images of 2^31 pixels a side": (lambda: _make(image=("n", 3, 2**31, 2**31)), "16384"),
    "a batch of 0": (lambda: _make(image=(0, 3, 8, 8)), "batch"),
    "a batch of a million": (lambda: _make(image=(10**6, 3, 8, 8)), "batch"),
    "maps for logits": (lambda: _make(logits=("n", 5, 1, 1)), "It is no classifier"),
    "opset 3": (lambda: _make(opset=3), _CANNOT_OPEN),
    "opset 99": (lambda: _make(opset=99), f"{_CANNOT_OPEN}|{_INVALID}"),
    "IR version 999": (lambda: _changed(lambda m: setattr(m, "ir_version", 999)), _INVALID),
    "a function that calls itself": (lambda: _call("F", _function("F", "F")), _INVALID),
    "functions that double 40 times": (_doubling, "1,000,000 nodes or more"),
    "a tensor of 2^60 bytes in each inference": (lambda: _fill(2**58), "fails"),
    "a tensor of a negative size": (lambda: _fill(-5), _INVALID),
}
NO_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
}


def _write(make: Callable[[], ModelProto | bytes], place: Path) -> None:
    made = make()
    (place / _NAME).write_bytes(made if isinstance(made, bytes) else made.SerializeToString())


def _put(put: Callable[[Path], object], place: Path) -> None:
    put(place / _NAME)


def _pipe_for_weights(place: Path) -> None:
    os.mkfifo(place / "weights.bin")
    _write(partial(_outside, "weights.bin"), place)


def _link_for_weights(place: Path) -> None:
    (place / "weights.bin").symlink_to("/etc/passwd")
    _write(partial(_outside, "weights.bin"), place)


def _list_kinds() -> Iterator[Kind]:
    for fault, (make, sentence) in MODELS.items():
        yield Kind("ONNX file", fault, _EXPORT, sentence, partial(_write, make))
    for fault, put in NO_FILES.items():
        yield Kind("ONNX file", fault, _EXPORT, "There is no file|Unknown", partial(_put, put))
    yield Kind("ONNX file", "weights in a pipe", _EXPORT, "are missing", _pipe_for_weights)
    yield Kind("ONNX file", "weights in a link", _EXPORT, "outside its folder", _link_for_weights)


KINDS = tuple(_list_kinds())
