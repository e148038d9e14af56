"""Reproduction files: the part of a graph that diverges, with its input and expected output."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.environment import cpu_count, require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import writing_to
from hvt_deploy.core.records import parse_json
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import Device
from hvt_deploy.evaluation.divergence import Evidence, ModuleError, relative_error
from hvt_deploy.graph.storage import load_onnx, write_onnx


@dataclass(frozen=True)
class Fault:
    """`fault.json` for `--replay`, next to `part.onnx`, `input.npz` and `expected.npz`."""

    model: str
    """Name of the model."""
    reference: str
    """Name of the backend that the graph was compared with."""
    candidate: str
    """Name of the graph."""
    module: ModuleError
    """The module, with its error when the files were written."""
    limit: float
    """Largest accepted local error."""
    nodes: tuple[str, ...]
    """Names of the module's nodes."""
    device: Device
    """Where ONNX Runtime ran it."""
    tool_versions: Mapping[str, str]
    """Versions of the installed packages."""


def part_runner(
    folder: Path, device: Device
) -> Callable[[onnx.ModelProto, Mapping[str, NDArray[Any]]], dict[str, Any]]:
    """Runs small graphs in ONNX Runtime; `folder` has the file of their weights, if any."""
    from hvt_deploy.runtime.ort import run_part

    return lambda part, inputs: run_part(part, inputs, device, cpu_count(), folder)


def write_fault(fault: Fault, evidence: Evidence, weights: Path, folder: Path) -> None:
    """Write the part with its weights, its input and the expected output to `folder`."""
    inputs, expected = (
        dict[str, Any](evidence.inputs),
        dict[str, Any]({fault.module.tensor: evidence.expected}),
    )
    onnx.load_external_data_for_model(evidence.part, str(weights))
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_onnx(evidence.part, folder / "part.onnx")
        np.savez_compressed(folder / "input.npz", **inputs)
        np.savez_compressed(folder / "expected.npz", **expected)
        (folder / "fault.json").write_text(json.dumps(to_plain(fault), indent=2), encoding="utf-8")


def replay(folder: Path) -> tuple[Fault, float]:
    """Run reproduction files: the record, and the error of the module's output now.

    Raises BadInput for a folder that `diagnose` did not write.
    """
    require("onnxruntime", extra="cpu")
    try:
        recorded = parse_json((folder / "fault.json").read_bytes())
        fault = from_plain(Fault, recorded, "fault.json")
        with np.load(folder / "input.npz", allow_pickle=False) as inputs:
            values = {name: inputs[name] for name in inputs.files}
        with np.load(folder / "expected.npz", allow_pickle=False) as outputs:
            expected = outputs[fault.module.tensor]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise BadInput(
            f"{folder} is not what `diagnose` wrote: {error}.", "Run: hvt-deploy diagnose"
        ) from None
    found = part_runner(folder, fault.device)(load_onnx(folder / "part.onnx"), values)
    return fault, relative_error(expected, found[fault.module.tensor])
