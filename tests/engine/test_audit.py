from __future__ import annotations

import json

import pytest

from hvt_deploy.engine.audit import EngineAudit, audit_layers, parse_inspector_json, parse_layer_lines
from hvt_deploy.errors import ToolFailure
from hvt_deploy.records import from_plain, to_plain


def line(name: str, kind: str, dtypes: str, *, tactic: str = "t", metadata: str = "", tensor: str = "x") -> str:
    """One line in the form of TensorRT-RTX's layer list."""

    def tensors(dtype: str) -> str:
        return f"[ {{ Name: {tensor}, Dimensions: [1,3,8,8], Datatype: {dtype}, Format: (Linear) Row major }}]"

    source, target = dtypes.split("->")
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {tensors(source)}, Constants: {tensors('Int8')}, "
        f"Outputs: {tensors(target)}, TacticName: {tactic}, StreamId: 0, Metadata: {metadata}"
    )


def message(*lines: str) -> str:
    return "\n".join(["Layers:", *lines, "", "I/O Tensors:", " Name: images, IOMode: Input"])


def test_line_is_read() -> None:
    text = line(
        "stem/Conv_myl0_2",
        "correlation",
        "Int8->Half",
        tactic="cask",
        metadata="[ONNX Layer: stem/Conv][ONNX Layer: act/Relu]",
    )
    (layer,) = parse_layer_lines(message(text))
    assert (layer.name, layer.type, layer.tactic) == ("stem/Conv_myl0_2", "correlation", "cask")
    assert (layer.inputs, layer.outputs) == (("Int8",), ("Half",))
    assert layer.onnx_nodes == ("stem/Conv", "act/Relu")


def test_precision_is_that_of_the_inputs_not_of_weights_or_outputs() -> None:
    layers = parse_layer_lines(
        message(
            line("a", "gemm", "Int8->Half"),
            line("b", "gemm", "Half->Int8"),
            line("c", "kgen", "Float->Float"),
            line("d", "kgen", "Int64->Int64"),
        )
    )
    audit = audit_layers(layers)
    assert (audit.int8_layers, audit.fp16_layers, audit.fp32_layers, audit.other_layers) == (1, 1, 1, 1)
    assert audit.int8_names == ("a",)


def test_only_kernels_of_one_inference_count() -> None:
    layers = parse_layer_lines(
        message(
            line("__mye1_0_myl0_0", "shape_call", "Int64->Int64", tactic=""),
            line("cast_x_myl0_1", "cast", "Int64->Int64", tactic=""),
            line("head_myl0_2", "gemm", "Half->Half"),
            line("__myl_Add_myl1_0", "kgen", "Half->Half"),  # of profile 1, as its region says two lines below
            line("head [profile 1]_myl1_1", "gemm", "Half->Half"),
        )
    )
    assert [layer.profile for layer in layers] == [0, 0, 0, 1, 1]
    assert audit_layers(layers).kernels == 1


def test_profile_is_known_from_a_tensor_too() -> None:
    (layer,) = parse_layer_lines(message(line("__myl_Move_myl3_0", "kgen", "Half->Half", tensor="images [profile 2]")))
    assert layer.profile == 2


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("__myl_Move_myl0_1", True),
        ("__myl_ReshReshTran_myl0_1", True),
        ("__myl_AddReshTranReshMove_myl0_1", False),
        ("__myl_TranMean_myl0_3", False),
        ("head/Gemm_myl0_4", False),
    ],
)
def test_layers_that_only_move_data(name: str, moves: bool) -> None:
    assert audit_layers(parse_layer_lines(message(line(name, "kgen", "Half->Half")))).reformats == moves


def test_copy_of_int8_data_is_no_int8_layer() -> None:
    audit = audit_layers(parse_layer_lines(message(line("__myl_MoveResh_myl0_1", "kgen", "Int8->Int8"))))
    assert (audit.kernels, audit.reformats, audit.int8_layers, audit.int8_names) == (1, 1, 0, ())


def test_fused_attention_is_counted() -> None:
    text = line("_gemm_mha_v2_myl0_7", "kgen", "Half->Half")
    assert audit_layers(parse_layer_lines(message(text, text, line("a", "gemm", "Half->Half")))).fused_attention == 2


def test_line_of_another_form_is_an_error_not_a_wrong_count() -> None:
    with pytest.raises(ToolFailure, match="unknown form: Layer 1 is a convolution"):
        parse_layer_lines("Layers:\nLayer 1 is a convolution\n")


@pytest.mark.parametrize(
    ("key", "half", "int8"),
    [
        ("Format/Datatype", "Channel major FP16 format where channel % 8 == 0", "Row major Int8 format"),
        ("Format/Datatype", "Half", "Int8"),
        ("Datatype", "Half", "Int8"),
    ],
)
def test_inspector_json_in_the_forms_of_all_versions(key: str, half: str, int8: str) -> None:
    def layer(name: str, kind: str, dtype: str) -> dict[str, object]:
        return {
            "Name": name, "LayerType": kind, "Inputs": [{"Name": "x", key: dtype}],
            "Outputs": [{"Name": "y", key: half}], "TacticName": "sm80", "StreamId": 0,
            "Metadata": f"[ONNX Layer: {name}]",
        }  # fmt: skip

    layers = [
        layer("head", "gemm", int8),
        layer("_gemm_mha_v2_myl0_1", "kgen", half),
        layer("Reformatting CopyNode for Input Tensor 0", "Reformat", half),
        layer("stem [profile 1]", "CaskConvolution", half),
        {"Name": "c", "LayerType": "Constant", "Inputs": [], "Outputs": []},
        "a name only",
    ]
    parsed = parse_inspector_json(json.dumps({"Layers": layers, "Bindings": ["images"]}))
    assert parsed[0].onnx_nodes == ("head",)
    assert audit_layers(parsed) == EngineAudit(
        kernels=3, int8_layers=1, fp16_layers=1, fp32_layers=0, other_layers=0, fused_attention=1, reformats=1,
        int8_names=("head",),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", '{"layers": []}', "null"])
def test_inspector_answer_of_another_form(text: str) -> None:
    with pytest.raises(ToolFailure, match="inspector"):
        parse_inspector_json(text)


def test_audit_goes_through_json() -> None:
    audit = audit_layers(parse_layer_lines(message(line("a", "gemm", "Int8->Half"))))
    assert from_plain(EngineAudit, json.loads(json.dumps(to_plain(audit)))) == audit
