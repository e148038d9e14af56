from __future__ import annotations

import json

import pytest

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.graph.analysis.engine_audit import ByPrecision, EngineAudit, NotInt8
from hvt_deploy.graph.analysis.node_facts import NodeFacts
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.layer_list import parse_inspector_json, parse_layer_lines


def line(
    name: str, kind: str, dtypes: str, *, tactic: str = "t", metadata: str = "", tensor: str = "x"
) -> str:
    """One line as in TensorRT-RTX's layer list."""

    def tensors(dtype: str) -> str:
        return (
            f"[ {{ Name: {tensor}, Dimensions: [1,3,8,8], Datatype: {dtype}, "
            "Format: (Linear) Row major }]"
        )

    source, target = dtypes.split("->")
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {tensors(source)}, "
        f"Constants: {tensors('Int8')}, Outputs: {tensors(target)}, "
        f"TacticName: {tactic}, StreamId: 0, Metadata: {metadata}"
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
    assert (layer.inputs[0].dtype, layer.outputs[0].dtype) == ("Int8", "Half")
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
    assert audit.layers == ByPrecision(int8=1, fp16=1, fp32=1, other=1)


@pytest.mark.parametrize(
    ("name", "dtypes", "expected"),
    [
        (
            "__myl_CastMulCastCastMulFc_myl0_5",
            "Int8->Half",
            "Half",
        ),  # Q/DQ that found no INT8 kernel
        ("__myl_CastMulAdd_myl0_5", "Int8->Float", "Float"),
        ("__myl_FcMulAddCast_myl0_5", "Int8->Half", "Int8"),
        ("__myl_MulMinMaxRounCast_myl0_5", "Half->Int8", "Half"),
    ],
)
def test_int8_that_is_converted_before_it_is_computed_with_is_not_int8(
    name: str, dtypes: str, expected: str
) -> None:
    (layer,) = parse_layer_lines(message(line(name, "runtime_fusion", dtypes)))
    assert layer.precision == expected


def test_only_kernels_of_one_inference_count() -> None:
    layers = parse_layer_lines(
        message(
            line("__mye1_0_myl0_0", "shape_call", "Int64->Int64", tactic=""),
            line("cast_x_myl0_1", "cast", "Int64->Int64", tactic=""),
            line("head_myl0_2", "gemm", "Half->Half"),
            line(
                "__myl_Add_myl1_0", "kgen", "Half->Half"
            ),  # of profile 1, as its region says two lines below
            line("head [profile 1]_myl1_1", "gemm", "Half->Half"),
        )
    )
    assert [layer.profile for layer in layers] == [0, 0, 0, 1, 1]
    assert audit_layers(layers).kernels == 1


def test_a_region_without_a_profile_mark_belongs_to_the_first_profile() -> None:
    """Only its own region's mark counts, wherever in the region it is."""
    layers = parse_layer_lines(
        message(
            line("stem_myl0_0", "gemm", "Half->Half"),
            line("stem [profile 1]_myl1_0", "gemm", "Half->Half"),
            line("__myl_Add_myl1_1", "kgen", "Half->Half"),
            line("__myl_Add_myl0_1", "kgen", "Half->Half"),
            line("head_myl2_0", "gemm", "Half->Half"),
            line("head [profile 2]_myl3_0", "gemm", "Half->Half"),
            line("plain", "gemm", "Half->Half"),
        )
    )
    assert [layer.profile for layer in layers] == [0, 1, 1, 0, 0, 2, 0]


def test_profile_is_known_from_a_tensor_too() -> None:
    (layer,) = parse_layer_lines(
        message(line("__myl_Move_myl3_0", "kgen", "Half->Half", tensor="images [profile 2]"))
    )
    assert layer.profile == 2


def test_lines_without_a_mark_have_the_profile_of_their_region_which_is_not_its_number() -> None:
    layers = parse_layer_lines(
        message(
            line("__myl_Add_myl12_0", "kgen", "Half->Half"),
            line("__myl_Move_myl12_1", "kgen", "Half->Half", tensor="images [profile 2]"),
            line("__myl_Add_myl3_0", "kgen", "Half->Half"),
            line("__myl_Move_myl3_1", "kgen", "Half->Half", tensor="images [profile 1]"),
            line("__myl_Add_myl1_0", "kgen", "Half->Half"),  # no line of region 1 names a profile
            line("Reformatting CopyNode", "Reformat", "Half->Half"),  # of no region
        )
    )
    assert [layer.profile for layer in layers] == [2, 2, 1, 1, 0, 0]


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
    assert (
        audit_layers(parse_layer_lines(message(line(name, "kgen", "Half->Half")))).reformats
        == moves
    )


def test_copy_of_int8_data_is_no_int8_layer() -> None:
    audit = audit_layers(
        parse_layer_lines(message(line("__myl_MoveResh_myl0_1", "kgen", "Int8->Int8")))
    )
    assert (audit.kernels, audit.reformats, audit.layers) == (1, 1, ByPrecision())


def test_fused_attention_is_counted() -> None:
    text = line("_gemm_mha_v2_myl0_7", "kgen", "Half->Half")
    assert (
        audit_layers(
            parse_layer_lines(message(text, text, line("a", "gemm", "Half->Half")))
        ).fused_attention
        == 2
    )


def test_line_in_an_unknown_format_is_an_error_not_a_wrong_count() -> None:
    with pytest.raises(ToolFailure, match="unknown format: Layer 1 is a convolution"):
        parse_layer_lines("Layers:\nLayer 1 is a convolution\n")


@pytest.mark.parametrize(
    ("key", "half", "int8"),
    [
        (
            "Format/Datatype",
            "Channel major FP16 format where channel % 8 == 0",
            "Row major Int8 format",
        ),
        ("Format/Datatype", "Half", "Int8"),
        ("Datatype", "Half", "Int8"),
    ],
)
def test_inspector_json_in_the_forms_of_all_versions(key: str, half: str, int8: str) -> None:
    def layer(name: str, kind: str, dtype: str) -> dict[str, object]:
        return {
            "Name": name,
            "LayerType": kind,
            "Inputs": [{"Name": "x", key: dtype}],
            "Outputs": [{"Name": "y", key: half}],
            "TacticName": "sm80",
            "StreamId": 0,
            "Metadata": f"[ONNX Layer: {name}]",
        }

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
    audit = audit_layers(parsed)
    assert (audit.kernels, audit.reformats, audit.fused_attention) == (3, 1, 1)
    assert audit.layers == ByPrecision(int8=1, fp16=1)


@pytest.mark.parametrize(
    ("weights", "tactic", "expected"),
    [
        ({"Type": "Int8", "Count": 9}, "", "Int8"),
        ({"Type": "Half", "Count": 9}, "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n", "Half"),
        ({}, "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n", "Int8"),
        (None, "ampere_h16816gemm_128x64_ldg8_stages_64x4_tn_v1", "Half"),
        (None, "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n", "Half"),
        (None, "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc", "Float"),
        (None, "__myl_Res_0x1234", "unknown"),
    ],
)
def test_data_type_of_a_layer_whose_formats_the_inspector_does_not_tell(
    weights: object, tactic: str, expected: str
) -> None:
    tensor = {"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}
    entry = {"Name": "a", "LayerType": "gemm", "Inputs": [tensor], "Outputs": [tensor]}
    text = json.dumps({"Layers": [entry | {"Weights": weights, "TacticName": tactic}]})
    (layer,) = parse_inspector_json(text)
    assert layer.precision == expected


def test_layers_of_other_profiles_are_left_out_of_the_inspectors_answer() -> None:
    names = ("head", "head [profile 1]", "head [profile 2]")
    text = json.dumps({"Layers": [{"Name": name, "LayerType": "gemm"} for name in names]})
    assert [layer.name for layer in parse_inspector_json(text, 0)] == ["head"]
    assert [layer.name for layer in parse_inspector_json(text, 2)] == ["head [profile 2]"]
    unmarked = json.dumps({"Layers": [{"Name": "head", "LayerType": "gemm"}]})
    assert [layer.profile for layer in parse_inspector_json(unmarked, 2)] == [2]


@pytest.mark.parametrize("text", ["", "[]", '{"layers": []}', "null"])
def test_inspector_answer_in_an_unknown_format(text: str) -> None:
    with pytest.raises(ToolFailure, match="inspector"):
        parse_inspector_json(text)


FACTS = (
    NodeFacts("levels.0/conv/Conv", "0", "conv", macs=600, weights=60, quantized=True),
    NodeFacts("levels.1/qkv/MatMul", "1", "qkv", macs=300, weights=30, quantized=True),
    NodeFacts("levels.1/score/MatMul", "1", "attention score", macs=50),
    NodeFacts("levels.1/Softmax", "1", "softmax", attention=True),
    NodeFacts("levels.1/value/MatMul", "1", "attention value", macs=50),
)


def named(*nodes: str) -> str:
    return "".join(f"[ONNX Layer: {node}]" for node in nodes)


def audit_of(*lines: str) -> EngineAudit:
    return audit_layers(parse_layer_lines(message(*lines)), FACTS)


CONV = line(
    "levels.0/conv/Conv_myl0_1", "correlation", "Int8->Half", metadata=named("levels.0/conv/Conv")
)
QKV = line(
    "levels.1/qkv/MatMul_myl0_2", "gemm", "Int8->Half", metadata=named("levels.1/qkv/MatMul")
)
MHA = line(
    "_gemm_mha_v2_myl0_3",
    "kgen",
    "Half->Half",
    metadata=named("levels.1/value/MatMul", "levels.1/Softmax", "levels.1/score/MatMul"),
)


def test_macs_and_weights_have_the_precision_of_the_kernel_that_computes_them() -> None:
    audit = audit_of(CONV, QKV, MHA)
    assert audit.macs == ByPrecision(int8=900, fp16=100)
    assert audit.weights == ByPrecision(int8=90)
    assert (audit.fused_attention, audit.attention_blocks) == (1, 1)
    assert (audit.int8_share, audit.int8_share_of_all) == (1.0, 0.9)
    assert audit.not_int8 == ()


def test_quantized_product_that_runs_in_half_is_named_with_its_layer() -> None:
    fallen = line(
        "levels.1/qkv/MatMul_myl0_2", "gemm", "Half->Half", metadata=named("levels.1/qkv/MatMul")
    )
    audit = audit_of(CONV, fallen, MHA)
    assert audit.int8_share == pytest.approx(600 / 900)
    assert audit.int8_share_of_all == pytest.approx(0.6)
    assert audit.not_int8 == (
        NotInt8("levels.1/qkv/MatMul", "levels.1/qkv/MatMul_myl0_2", "fp16", 300),
    )


@pytest.mark.parametrize(
    "other",
    [
        line(
            "__myl_MulAddResh_myl0_9", "kgen", "Int8->Half", metadata=named("levels.1/qkv/MatMul")
        ),
        line(
            "__myl_MoveReplConc_myl0_9", "kgen", "Int8->Int8", metadata=named("levels.1/qkv/MatMul")
        ),
    ],
    ids=["scales the result", "copies the input"],
)
def test_kernels_that_only_touch_a_product_do_not_lend_it_their_precision(other: str) -> None:
    product = line(
        "__myl_FcAdd_myl0_2", "runtime_fusion", "Half->Half", metadata=named("levels.1/qkv/MatMul")
    )
    assert audit_of(CONV, other, product, MHA).not_int8[0].layer == "__myl_FcAdd_myl0_2"


def test_of_two_kernels_that_may_compute_a_product_the_wider_counts() -> None:
    half = line(
        "levels.1/qkv/MatMul_myl0_7", "gemm", "Half->Half", metadata=named("levels.1/qkv/MatMul")
    )
    assert (
        audit_of(CONV, QKV, half, MHA).macs.int8 == audit_of(CONV, half, QKV, MHA).macs.int8 == 600
    )


def test_product_that_no_kernel_names_is_not_int8() -> None:
    audit = audit_of(CONV, MHA)
    assert audit.not_int8 == (NotInt8("levels.1/qkv/MatMul", "", "other", 300),)
    assert audit.macs == ByPrecision(int8=600, fp16=100, other=300)


def test_the_profile_with_the_least_int8_is_the_one_that_is_audited() -> None:
    second = [text.replace("_myl0_", "_myl1_") for text in (CONV, QKV, MHA)]
    second[0] = second[0].replace(
        "levels.0/conv/Conv_myl1_1", "levels.0/conv/Conv [profile 1]_myl1_1"
    )
    second[1] = second[1].replace("Int8", "Half", 1)
    assert audit_of(CONV, QKV, MHA, *second).not_int8[0].macs == 300
    assert audit_of(*second).int8_share < audit_of(CONV, QKV, MHA).int8_share == 1


def test_small_product_written_out_as_multiplications_counts_in_the_kernel_that_has_it() -> None:
    written_out = line(
        "__myl_SlicSlicMulMulAdd_myl0_2",
        "kgen",
        "Float->Float",
        metadata=named("levels.1/qkv/MatMul"),
    )
    assert audit_of(CONV, written_out, MHA).macs == ByPrecision(int8=600, fp32=300, fp16=100)


def test_groups_are_the_whole_by_stage_and_role() -> None:
    unnamed = line("__myl_Move_myl0_8", "kgen", "Half->Half")
    audit = audit_of(CONV, QKV, MHA, unnamed)
    assert [(g.stage, g.role, g.layers.total, g.reformats, g.macs.total) for g in audit.groups] == [
        ("0", "conv", 1, 0, 600),
        ("1", "qkv", 1, 0, 300),
        ("1", "attention score", 0, 0, 50),
        ("1", "attention value", 1, 0, 50),
        ("", "other", 0, 1, 0),
    ]


def test_without_the_graph_macs_are_unknown() -> None:
    audit = audit_layers(parse_layer_lines(message(CONV, QKV, MHA)))
    assert (audit.macs.total, audit.int8_share, audit.int8_share_of_all) == (0, 0, 0)
    assert audit.layers == ByPrecision(int8=2, fp16=1)


def test_audit_goes_through_json() -> None:
    audit = audit_of(CONV, MHA)
    assert from_plain(EngineAudit, json.loads(json.dumps(to_plain(audit)))) == audit


@pytest.mark.parametrize(
    ("named", "group"),
    [
        (("norm", "q"), ("1", "norm")),
        (("q",), ("1", "qkv")),
        (("q", "act", "conv"), ("0", "conv")),  # what follows a product INT8 has in its own kernel
        (("conv", "big"), ("1", "fc1")),
        ((), ("", "other")),
    ],
)
def test_kernel_that_is_no_product_belongs_to_the_product_that_it_names(named, group) -> None:
    nodes = (
        NodeFacts("q", "1", "qkv", is_qdq=True),
        NodeFacts("act", "0", "activation"),
        NodeFacts("norm", "1", "norm"),
        NodeFacts("conv", "0", "conv", macs=10),
        NodeFacts("big", "1", "fc1", macs=20),
    )
    metadata = "".join(f"[ONNX Layer: {name}]" for name in named)
    products = (
        line(f"{name}_myl0_1", "gemm", "Half->Half", metadata=f"[ONNX Layer: {name}]")
        for name in ("conv", "big")
    )
    kernel = line("__myl_MulAdd_myl0_2", "kgen", "Half->Half", metadata=metadata)
    found = audit_layers(parse_layer_lines(message(*products, kernel)), nodes)
    counts = {(g.stage, g.role): g.layers.total for g in found.groups}
    alone = audit_layers(parse_layer_lines(message(kernel)), nodes)
    assert counts[group] == 1 + (group in {("0", "conv"), ("1", "fc1")})
    assert [(g.stage, g.role) for g in alone.groups if g.layers.total] == [group]
