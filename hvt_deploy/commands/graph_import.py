"""An ONNX file of another exporter -> the workspace's FP32 graph, proven equal to the file."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import version_converter

from hvt_deploy.commands.commit_export import commit_export, make_manifest
from hvt_deploy.commands.exported_graph import Exported, describe_exported
from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.files import hash_file
from hvt_deploy.core.manifest import GIVEN, GraphFacts, WeightsRecord
from hvt_deploy.core.model_options import OnnxSource
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.export_parity import prove_batches, prove_parity
from hvt_deploy.graph.contract import ContractReport, describe_breaches, inspect_contract
from hvt_deploy.graph.foreign.common_forms import write_common_forms
from hvt_deploy.graph.foreign.interface import (
    find_preprocessing,
    list_external,
    name_unsupported,
    read_foreign,
    refusing_invalid,
)
from hvt_deploy.graph.foreign.names import name_foreign_nodes
from hvt_deploy.graph.foreign.role_patterns import name_roles
from hvt_deploy.graph.gelu_order import order_gelu
from hvt_deploy.graph.opset import SUPPORTED_OPSETS, check_opset, convert_opset, read_opset
from hvt_deploy.graph.preprocessing import check_preprocessing
from hvt_deploy.graph.simplify import simplify
from hvt_deploy.graph.storage import save_onnx
from hvt_deploy.graph.transpose_order import move_transposes
from hvt_deploy.runtime.failures import read_first_line
from hvt_deploy.runtime.variant import Variant

_REFERENCE = Variant("ort", "cpu", "fp32", "given")


def import_graph(
    folder: ModelFolder, config: RunConfig, source: OnnxSource, class_names: Path | None, ui: Ui
) -> Exported:
    """Take the ONNX file `source` into `folder`, whatever was exported there before.

    The file, with its batch axis fixed where that was asked for, is the reference; the FP32 graph
    is the same with other names, simplified and at the opset asked for. Raises BadInput for a file
    that cannot be taken or has changed, CheckFailed for a broken parity, ToolFailure where a
    conversion fails.
    """
    _check_request(config, source)
    batch = config.export.batch
    given = _read_given(source, batch)
    signature = Signature(
        source.image_size, source.num_classes, batch, source.input_name, source.output_name
    )
    weights = WeightsRecord("file", hash_file(Path(source.path)), untrained=False, path=source.path)
    manifest = make_manifest(folder, config, signature, weights, class_names)
    with folder.lock(), folder.staging() as staged_given, folder.staging() as staged:
        reference, path = (
            staged_given / f"{folder.slug}.given.onnx",
            staged / f"{folder.slug}.fp32.onnx",
        )
        with refusing_invalid(Path(source.path)):
            save_onnx(given, reference)
        prove_batches(reference, manifest)
        with ui.progress(f"Converting {Path(source.path).name}") as progress:
            save_onnx(graph := _convert(given, config), path)
            progress(1, 1)
        contract = _inspect(graph, signature, config, ui)
        with ui.progress("Comparing with the file") as progress:
            parity = prove_parity(reference, path, manifest, config, progress, _REFERENCE)
        facts = GraphFacts("fp32", config.export.opset, contract.nodes, contract.ops, parity)
        manifest = commit_export(folder, manifest, GIVEN, reference, path, facts)
    return describe_exported(folder, manifest)


def _check_request(config: RunConfig, source: OnnxSource) -> None:
    """Raise BadInput for settings that do not fit the file."""
    require("onnxruntime", extra="cpu")
    check_opset(config.export.opset)
    if config.export.weights != "auto":
        raise BadInput("The weights of an ONNX file are in it.", "Leave --weights out.")
    if config.export.preprocess_in_graph:
        check_preprocessing(config.preprocessing)
    if config.num_classes != source.num_classes:
        raise BadInput(
            f"{source.path} has {source.num_classes} classes, {config.num_classes} were asked for."
        )
    if source.batch not in (None, config.export.batch):
        raise BadInput(
            f"{source.path} takes batches of exactly {source.batch}.",
            f"Leave --batch out or give --batch {source.batch}; export it with a dynamic batch "
            "axis to have any size.",
        )


def _read_given(source: OnnxSource, batch: int | None) -> onnx.ModelProto:
    path = Path(source.path)
    if not path.is_file() or hash_file(path, *list_external(path)) != source.sha256:
        raise BadInput(f"{path} is not there, or has changed meanwhile.", "Export it again.")
    given = read_foreign(path, source.image_size)
    if batch is not None:
        for value in (*given.graph.input, *given.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del given.graph.value_info[:]
    return given


def _convert(given: onnx.ModelProto, config: RunConfig) -> onnx.ModelProto:
    """The given graph with named nodes, simplified, at the opset asked for."""
    opset, named = config.export.opset, name_foreign_nodes(given)
    if read_opset(named) not in SUPPORTED_OPSETS:
        nearest = min(max(read_opset(named), SUPPORTED_OPSETS.start), SUPPORTED_OPSETS.stop - 1)
        try:
            named = version_converter.convert_version(named, nearest)
        except Exception as error:
            raise ToolFailure(
                f"ONNX cannot convert opset {read_opset(named)} to {nearest}: "
                f"{read_first_line(error)}",
                "Export the network again at an opset from 17 to 22.",
            ) from error
    simplified = order_gelu(simplify(named, config.export.simplifier))
    return name_roles(move_transposes(write_common_forms(convert_opset(simplified, opset))))


def _inspect(
    graph: onnx.ModelProto, signature: Signature, config: RunConfig, ui: Ui
) -> ContractReport:
    """The graph in numbers; what is unusual about it is said."""
    norms = sum(node.op_type == "LayerNormalization" for node in graph.graph.node)
    found = inspect_contract(
        graph, opset=config.export.opset, signature=signature, layer_norms=norms
    )
    shapes = ("the input is", "the output is")  # the names of other exporters' axes
    if breaches := [breach for breach in found.breaches if not breach.startswith(shapes)]:
        ui.warn(describe_breaches(config.model, breaches))
    own = find_preprocessing(graph)
    if own and any(config.preprocessing.mean):
        ui.warn(
            f"The graph prepares its images itself ({', '.join(own)}), and they are normalized "
            "before it as well. If it takes values from 0 to 1: --preprocessing "
            "mean=[0,0,0],std=[1,1,1]; if from 0 to 255: "
            "--preprocessing mean=[0,0,0],std=[0.00392157,0.00392157,0.00392157]"
        )
    if unsupported := name_unsupported(graph):
        ui.warn(unsupported)
    if signature.batch is not None:
        ui.say(f"Batches of exactly {signature.batch}: the file's batch axis is fixed.")
    if any(node.op_type == "Softmax" and _is_output(graph, node) for node in graph.graph.node):
        ui.warn(
            "The output is that of a Softmax, probabilities: they are compared in place of logits."
        )
    return found


def _is_output(graph: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return graph.graph.output[0].name in node.output
