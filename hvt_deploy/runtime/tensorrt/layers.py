"""An engine's own list of layers.

TensorRT-RTX writes the list into its verbose log during a build (which needs no GPU); TensorRT
gives it as JSON from an engine's inspector (which needs one).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

from hvt_deploy.core.errors import ToolFailure

_LINE = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<type>\S*), Inputs: (?P<inputs>.*?)(?:, Constants: (?P<constants>.*))?"
    r", Outputs: (?P<outputs>.*), TacticName: (?P<tactic>.*), StreamId: .*, Metadata: ?(?P<metadata>.*)"
)
_PROFILE = re.compile(r"\[profile (\d+)\]")
_REGION = re.compile(r"_myl(\d+)_\d+$")
# TensorRT up to 10 writes formats in prose ("Row major linear FP16 format"), later ones type names.
_DTYPES = (
    ("Int8", ("int8",)),
    ("FP8", ("fp8",)),
    ("Half", ("fp16", "half")),
    ("BFloat16", ("bf16", "bfloat16")),
    ("Float", ("fp32", "float")),
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
_PRODUCTS = {"Fc", "Bmm", "Conv"}


@dataclass(frozen=True)
class EngineLayer:
    """One layer of one profile. `inputs` and `outputs` are data types: Int8, Half, Float, Int64 …

    `onnx_nodes` are the names of the ONNX nodes it computes, `tactic` the kernel's name ("" where
    there is none).
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    tactic: str = ""
    profile: int = 0

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
        """Whether it multiplies matrices or convolves, as far as a generated kernel's name tells."""
        return self.type != "kgen" or "_gemm_" in self.name or not _PRODUCTS.isdisjoint(self._steps)

    @property
    def precision(self) -> str:
        """The lowest precision among its inputs: Int8, FP8, Half, BFloat16, Float, or other.

        INT8 that is converted before anything is computed (`__myl_CastMulFc`: Q/DQ that found no
        INT8 kernel) is not INT8: then it is the lowest of the other inputs and the outputs.
        """
        types = self.inputs
        before_product = takewhile(lambda step: step not in _PRODUCTS, self._steps)
        if "Int8" in types and "Cast" in before_product and not self.is_reformat:
            types = tuple(dtype for dtype in (*types, *self.outputs) if dtype != "Int8")
        return next((name for name, _ in _DTYPES if name in types), "other")

    @property
    def _steps(self) -> tuple[str, ...]:
        """What a generated kernel does, in its order: `__myl_MulReluMove_myl0_4` is Mul, Relu,
        Move.
        """
        match = re.match(r"__myl_((?:[A-Z][a-z]+)+)_", self.name)
        return tuple(re.findall("[A-Z][a-z]+", match[1])) if match else ()


def parse_layer_lines(message: str) -> tuple[EngineLayer, ...]:
    """The layers in the verbose message that starts with `Layers:`. Raises ToolFailure for a line
    of another form.
    """
    lines = [line for line in message.partition("\n\n")[0].splitlines()[1:] if line.strip()]
    matches: list[tuple[str, re.Match[str]]] = []
    for line in lines:
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ToolFailure(
                f"This line of the engine's layer list is of an unknown form: {line[:200]}"
            )
        matches.append((line, match))
    profiles = _profiles_of_regions([(match["name"], line) for line, match in matches])
    return tuple(
        EngineLayer(
            name=match["name"],
            type=match["type"],
            inputs=tuple(re.findall(r"Datatype: (\w+)", match["inputs"])),
            outputs=tuple(re.findall(r"Datatype: (\w+)", match["outputs"])),
            onnx_nodes=_onnx_nodes(match["metadata"]),
            tactic=match["tactic"],
            profile=_profile_of(match["name"], line, profiles),
        )
        for line, match in matches
    )


def parse_inspector_json(text: str) -> tuple[EngineLayer, ...]:
    """The layers in the JSON of an engine inspector. Raises ToolFailure where it holds none."""
    try:
        entries = cast("Mapping[str, object]", json.loads(text))["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ToolFailure(
            f"The engine inspector's answer is of an unknown form: {text[:200]}"
        ) from error
    # Without detailed verbosity a layer is only its name.
    layers = (entry for entry in cast("list[object]", entries) if not isinstance(entry, str))
    return tuple(_layer_from_json(cast("Mapping[str, object]", layer)) for layer in layers)


def _layer_from_json(entry: Mapping[str, object]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    marked = _PROFILE.search(name)
    return EngineLayer(
        name=name,
        type=str(entry.get("LayerType", "")),
        inputs=_dtypes(entry.get("Inputs")),
        outputs=_dtypes(entry.get("Outputs")),
        onnx_nodes=_onnx_nodes(str(entry.get("Metadata", ""))),
        tactic=str(entry.get("TacticName", "")),
        profile=int(marked[1]) if marked else 0,
    )


def _dtypes(tensors: object) -> tuple[str, ...]:
    found: list[str] = []
    for tensor in cast("list[Mapping[str, object]]", tensors or []):
        text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
        known = (name for name, words in _DTYPES if any(word in text.lower() for word in words))
        found.append(next(known, text))
    return tuple(found)


def _onnx_nodes(metadata: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata))


def _profiles_of_regions(lines: Sequence[tuple[str, str]]) -> Mapping[str, int]:
    """The profile of each compiled region (`_myl3_` in layer names): that of any of its lines that
    names one.
    """
    profiles: dict[str, int] = {}
    for name, line in lines:
        region, marked = _REGION.search(name), _PROFILE.search(line)
        if region and marked:
            profiles[region[1]] = int(marked[1])
    return profiles


def _profile_of(name: str, line: str, profiles: Mapping[str, int]) -> int:
    marked, region = _PROFILE.search(line), _REGION.search(name)
    if marked:
        return int(marked[1])
    return profiles.get(region[1], 0) if region else 0
