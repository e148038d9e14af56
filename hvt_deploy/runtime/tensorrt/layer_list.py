"""An engine's own list of layers.

TensorRT-RTX writes the list into its verbose log during a build (which needs no GPU); TensorRT
gives it as JSON from an engine's inspector (which needs one).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import cast

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.runtime.tensorrt.layer_tensors import (
    PRECISIONS,
    UNKNOWN,
    LayerTensor,
    name_dtype,
    parse_tensors,
    read_json_constants,
    read_json_tensors,
)

_LINE = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<type>\S*), Inputs: (?P<inputs>.*?)"
    r"(?:, Constants: (?P<constants>.*))?, Outputs: (?P<outputs>.*)"
    r", TacticName: (?P<tactic>.*), StreamId: .*, Metadata: ?(?P<metadata>.*)"
)
_PROFILE = re.compile(r"\[profile (\d+)\]")
_REGION = re.compile(r"_myl(\d+)_\d+$")
# Data types in the names of NVIDIA's kernels: sm80_xmma_gemm_i8i8_…, …_h16816gemm_…, …_f32f32_….
_TACTIC_DTYPES = (
    ("Int8", re.compile(r"i8i8|imma|int8", re.IGNORECASE)),
    ("Half", re.compile(r"f16f16|h884|h1688|h16816|hmma|fp16", re.IGNORECASE)),
    ("Float", re.compile(r"f32f32|sgemm|fp32", re.IGNORECASE)),
)
# Layers that only compute shapes on the host or mark a place; none of them is a kernel on the GPU.
_NOT_KERNELS = {
    "shape_call",
    "constant",
    "noop",
    "signal",
    "wait",
    "shape",
    "shapehosttodevice",
    "devicetoshapehost",
}
# The steps in a generated kernel's name that move data and compute nothing.
_MOVES = {"Move", "Copy", "Resh", "Tran", "Conc", "Slic", "Repl", "Cast"}
_PRODUCT_STEPS = {"Fc", "Bmm", "Conv"}


@dataclass(frozen=True)
class EngineLayer:
    """One layer of one optimization profile.

    Attributes:
        name: TensorRT's name of the layer.
        type: TensorRT's layer type: kgen, gemm, correlation, Reformat …
        inputs: the tensors that it reads, without constants.
        outputs: the tensors that it writes.
        onnx_nodes: names of the ONNX nodes that the layer computes.
        tactic: the kernel's name, "" where there is none.
        profile: index of the optimization profile that the layer belongs to.
        constants: the weights and other constants that it reads; None where the list does not say:
            TensorRT's has those of some layers only, TensorRT-RTX's of all.
    """

    name: str
    type: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    onnx_nodes: tuple[str, ...]
    tactic: str = ""
    profile: int = 0
    constants: tuple[LayerTensor, ...] | None = None

    @property
    def is_kernel(self) -> bool:
        """Whether it runs on the GPU."""
        return self.type.lower() not in _NOT_KERNELS and not (
            self.type in ("reshape", "cast") and not self.tactic
        )

    @property
    def is_reformat(self) -> bool:
        """Whether it only copies, reorders or converts."""
        if self.type.lower() in ("reformat", "copy", "shuffle"):
            return True
        return bool(self._steps) and set(self._steps) <= _MOVES

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves, judged by a generated kernel's name."""
        return (
            self.type != "kgen"
            or "_gemm_" in self.name
            or not _PRODUCT_STEPS.isdisjoint(self._steps)
        )

    @property
    def precision(self) -> str:
        """The lowest precision among its inputs: Int8, FP8, Half, BFloat16, Float, or other;
        UNKNOWN where the inspector does not report them.

        INT8 that is converted before anything is computed (`__myl_CastMulFc`: Q/DQ that found no
        INT8 kernel) is not INT8: then it is the lowest of the other inputs and the outputs.
        """
        types = tuple(tensor.dtype for tensor in self.inputs)
        before_product = takewhile(lambda step: step not in _PRODUCT_STEPS, self._steps)
        if "Int8" in types and "Cast" in before_product and not self.is_reformat:
            written = (tensor.dtype for tensor in self.outputs)
            types = tuple(dtype for dtype in (*types, *written) if dtype != "Int8")
        missing = UNKNOWN if UNKNOWN in types else "other"
        return next((name for name in PRECISIONS if name in types), missing)

    @property
    def has_unknown_types(self) -> bool:
        """Whether it runs on the GPU in a precision that the inspector does not report."""
        return self.is_kernel and self.precision == UNKNOWN

    @property
    def _steps(self) -> tuple[str, ...]:
        """The operations of a generated kernel in order: `__myl_MulReluMove_myl0_4` is Mul, Relu,
        Move.
        """
        match = re.match(r"__myl_((?:[A-Z][a-z]+)+)_", self.name)
        return tuple(re.findall("[A-Z][a-z]+", match[1])) if match else ()


def parse_layer_lines(message: str) -> tuple[EngineLayer, ...]:
    """The layers in the verbose message that starts with `Layers:`.

    Raises ToolFailure for a line in an unknown format.
    """
    lines = [line for line in message.partition("\n\n")[0].splitlines()[1:] if line.strip()]
    matches: list[tuple[str, re.Match[str]]] = []
    for line in lines:
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ToolFailure(
                f"This line of the engine's layer list has an unknown format: {line[:200]}"
            )
        matches.append((line, match))
    profiles = _find_region_profiles([(match["name"], line) for line, match in matches])
    return tuple(
        EngineLayer(
            name=match["name"],
            type=match["type"],
            inputs=parse_tensors(match["inputs"]),
            outputs=parse_tensors(match["outputs"]),
            onnx_nodes=_parse_onnx_nodes(match["metadata"]),
            tactic=match["tactic"],
            profile=_find_profile(match["name"], line, profiles),
            constants=None if match["constants"] is None else parse_tensors(match["constants"]),
        )
        for line, match in matches
    )


def parse_inspector_json(text: str, profile: int = 0) -> tuple[EngineLayer, ...]:
    """The layers of `profile` in the JSON of an engine inspector whose context has that profile.

    Layers of other profiles are marked ("[profile 1]"), those of profile 0 are not; without any
    mark all layers are of this profile. Raises ToolFailure for an unknown format.
    """
    try:
        entries = cast("Mapping[str, object]", json.loads(text))["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ToolFailure(
            f"The engine inspector's answer has an unknown format: {text[:200]}"
        ) from error
    # Without detailed verbosity a layer is only its name.
    detailed = (entry for entry in cast("list[object]", entries) if not isinstance(entry, str))
    layers = [_read_json_layer(cast("Mapping[str, object]", entry)) for entry in detailed]
    if profile and all(layer.profile == 0 for layer in layers):
        return tuple(replace(layer, profile=profile) for layer in layers)
    return tuple(layer for layer in layers if layer.profile == profile)


def _read_json_layer(entry: Mapping[str, object]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    marked = _PROFILE.search(name)
    inputs, tactic = read_json_tensors(entry.get("Inputs")), str(entry.get("TacticName", ""))
    if inputs and all(tensor.dtype == UNKNOWN for tensor in inputs):
        guessed = replace(inputs[0], dtype=_guess_dtype(entry.get("Weights"), tactic))
        inputs = (guessed, *inputs[1:])
    return EngineLayer(
        name=name,
        type=str(entry.get("LayerType", "")),
        inputs=inputs,
        outputs=read_json_tensors(entry.get("Outputs")),
        onnx_nodes=_parse_onnx_nodes(str(entry.get("Metadata", ""))),
        tactic=tactic,
        profile=int(marked[1]) if marked else 0,
        constants=read_json_constants(entry),
    )


def _guess_dtype(weights: object, tactic: str) -> str:
    """The data type of a layer's weights, else that in its kernel's name, else UNKNOWN."""
    if isinstance(weights, dict):
        dtype = name_dtype(str(cast("Mapping[str, object]", weights).get("Type", "")))
        if dtype in PRECISIONS:
            return dtype
    return next((name for name, pattern in _TACTIC_DTYPES if pattern.search(tactic)), UNKNOWN)


def _parse_onnx_nodes(metadata: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata))


def _find_region_profiles(lines: Sequence[tuple[str, str]]) -> Mapping[str, int]:
    """The profile of each compiled region (`_myl3_` in layer names): that of any of its lines that
    names one.
    """
    profiles: dict[str, int] = {}
    for name, line in lines:
        region, marked = _REGION.search(name), _PROFILE.search(line)
        if region and marked:
            profiles[region[1]] = int(marked[1])
    return profiles


def _find_profile(name: str, line: str, profiles: Mapping[str, int]) -> int:
    marked, region = _PROFILE.search(line), _REGION.search(name)
    if marked:
        return int(marked[1])
    return profiles.get(region[1], 0) if region else 0
