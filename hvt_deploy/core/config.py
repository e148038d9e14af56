"""Everything a run can set: its schema, its file, and what flags change in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import (
    CalibratorChoice,
    FlavourChoice,
    Precision,
    Preprocessing,
    Recovery,
    Simplifier,
    SubsetName,
)


@dataclass(frozen=True)
class ExportConfig:
    """`weights`: auto, official, random or a path. `batch` null means any batch size.
    `preprocess_in_graph`: also a graph that takes uint8 pixels of any size.
    """

    weights: str = "auto"
    seed: int = 0
    opset: int = 17
    batch: int | None = None
    simplifier: Simplifier = "onnxslim"
    preprocess_in_graph: bool = False


@dataclass(frozen=True)
class CalibrationConfig:
    """`images` are drawn from `folder` by `seed`, the same number from each class as far as it
    goes.
    """

    folder: str = "imagenet/train"
    images: int = 512
    seed: int = 0
    batch_size: int = 8


@dataclass(frozen=True)
class QuantizationConfig:
    """`int8_roles`: the roles of Conv and Linear nodes that get Q/DQ, except in the groups
    (`stage/role`) `excluded`.

    `calibrator` auto picks one for each tensor by measured error. `recovery` names passes that are
    tried, and kept where they bring the logits closer to FP32. This section by itself is a recipe.
    """

    int8_roles: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    calibrator: CalibratorChoice = "auto"
    recovery: tuple[Recovery, ...] = (
        "smooth-quant",
        "bias-correction",
    )


@dataclass(frozen=True)
class EngineConfig:
    """`profiles`: MIN, OPT, MAX batch sizes. `compute_capabilities` are used where no GPU is
    present.
    """

    precision: Precision = "fp16"
    flavour: FlavourChoice = "auto"
    compute_capabilities: tuple[str, ...] = ("8.6",)
    profiles: tuple[tuple[int, int, int], ...] = ((1, 8, 32),)
    workspace_mib: int = 4096


@dataclass(frozen=True)
class ValidationConfig:
    """`subset`: imagenet-a, imagenet-r or imagenet-v2. `limit` null means every image;
    `allow_cpu_nodes`: ONNX Runtime may leave nodes of a graph to the CPU where a GPU was asked for;
    `threads` null means every processor. `latency_batches`: gates and speed-ups are of the first.
    Gates that are null are not set.
    """

    subset: SubsetName | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 8
    threads: int | None = None
    latency_batches: tuple[int, ...] = (1,)
    margin: float = 0.5
    max_top1_drop: float | None = None
    min_speedup: float | None = None
    max_latency_ms: float | None = None
    backends: tuple[str, ...] | None = None
    allow_cpu_nodes: bool = False


@dataclass(frozen=True)
class RunConfig:
    """One model's whole configuration, as `export_configs/<model>.yaml` holds it."""

    model: str
    num_classes: int
    preprocessing: Preprocessing
    quantization: QuantizationConfig
    options: ModelOptions = DEFAULT_OPTIONS
    export: ExportConfig = field(default_factory=ExportConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)


def load_config(path: Path) -> RunConfig:
    """Read a configuration file. Raises BadInput for bad YAML, an unknown key or a wrong type."""
    data = _read_yaml(path, "Write one: hvt-deploy config MODEL > FILE")
    return from_plain(RunConfig, data, str(path))


def load_recipe(path: Path) -> QuantizationConfig:
    """Read a recipe: the `quantization` section by itself. Raises BadInput as `load_config` does."""
    return from_plain(
        QuantizationConfig,
        _read_yaml(path, "Find one: hvt-deploy quantize --budget 0.5"),
        str(path),
    )


def _read_yaml(path: Path, advice: str) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}.", advice) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid YAML: {error}") from None


def dump_config(config: RunConfig) -> str:
    """The YAML text of a configuration; `load_config` reads it back."""
    header = f"# Everything a run of {config.model} can set. Written by: hvt-deploy config {config.model}\n"
    return header + yaml.safe_dump(
        to_plain(config), sort_keys=False, default_flow_style=None, width=100
    )


def with_flags(config: RunConfig, flags: Mapping[str, object]) -> RunConfig:
    """`config` with the command line's values in it, by dotted key (`export.opset`); None means not
    given.
    """
    plain = cast("dict[str, Any]", to_plain(config))
    for key, value in flags.items():
        if value is None:
            continue
        *sections, name = key.split(".")
        place = plain
        for section in sections:
            place = cast("dict[str, Any]", place[section])
        place[name] = to_plain(value)
    return from_plain(RunConfig, plain, "command line")
