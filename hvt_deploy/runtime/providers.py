"""The execution providers of ONNX Runtime that really start on this machine."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import contextlib

import onnx
import onnxruntime


def working_providers() -> tuple[str, ...]:
    """The providers that really start here: onnxruntime-gpu lists CUDA and TensorRT on machines
    without them.
    """
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:]
    )
    opset = onnx.helper.make_opsetid("", 17)
    probe = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    working: list[str] = []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for provider in onnxruntime.get_available_providers():
        with contextlib.suppress(Exception):
            session = onnxruntime.InferenceSession(
                probe, options, providers=[provider], enable_fallback=0
            )
            if provider in session.get_providers():
                working.append(provider)
    return tuple(working)
