"""Everything a run can set: its schema, its file, and what flags change in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

import yaml

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.model_options import DEFAULT_OPTIONS, ModelOptions
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import (
    MAX_THREADS,
    RECOVERIES,
    BatchSize,
    Between,
    CalibratorChoice,
    FlavourChoice,
    Int8Attention,
    Precision,
    Preprocessing,
    Recovery,
    Seed,
    Simplifier,
    SubsetName,
)
from hvt_deploy.core.yaml_file import read_yaml

# MIN, OPT, MAX batch sizes; engines with others have them in their names.
DEFAULT_PROFILES = ((1, 8, 32),)
_Images = Annotated[int, Between(1, 10**9)]
_Percent = Annotated[float, Between(0, 100)]
_ProfileBatch = Annotated[int, Between(1, 999_999)]
_Profiles = tuple[tuple[_ProfileBatch, _ProfileBatch, _ProfileBatch], ...]


@dataclass(frozen=True)
class ExportConfig:
    """From checkpoint to ONNX."""

    weights: str = "auto"
    """auto, official, random or the path of a checkpoint."""
    seed: Seed = 0
    """Seed of random weights."""
    opset: int = 17
    """Version of ONNX's default operator set."""
    batch: BatchSize | None = None
    """Fixed batch size; null means any."""
    simplifier: Simplifier = "onnxslim"
    """Graph optimizer that runs after the export."""
    preprocess_in_graph: bool = False
    """Whether to write a second graph that takes uint8 pixels of any size."""


@dataclass(frozen=True)
class CalibrationConfig:
    """Images that activation ranges are measured on."""

    folder: str = "imagenet/train"
    """Folder of images, never those of the validation."""
    images: Annotated[int, Between(1, 100_000)] = 512
    """How many are drawn, the same number from each class as far as it goes."""
    seed: Seed = 0
    """Seed of the draw."""
    batch_size: BatchSize = 8
    """Images in memory at once; a fixed batch size of the graph overrides it."""


@dataclass(frozen=True)
class Int8Roles:
    """Roles of the Conv and Linear nodes that get Q/DQ, by what runs the graph."""

    rtx: tuple[str, ...]
    """For TensorRT-RTX, whose INT8 convolutions write FP32; where the graph has no node of these
    roles, those of `tensorrt`."""
    tensorrt: tuple[str, ...]
    """For TensorRT."""
    cpu: tuple[str, ...]
    """For ONNX Runtime on the CPU."""


@dataclass(frozen=True)
class QuantizationConfig:
    """Where INT8 is used and how its ranges are found. This section by itself is a recipe."""

    int8_roles: Int8Roles
    """Roles of the Conv and Linear nodes that get Q/DQ."""
    int8_outputs: tuple[str, ...] = ()
    """Roles of the Linears that write INT8 in an engine."""
    int8_attention: Int8Attention = "auto"
    """Whether attention is INT8 in an engine that has a kernel for it; auto: where it costs little
    accuracy."""
    excluded: tuple[str, ...] = ()
    """Groups (`stage/role`) that get none."""
    calibrator: CalibratorChoice = "auto"
    """Calibration method for activation ranges; auto picks one or a mix of them by the logits."""
    recovery: tuple[Recovery, ...] = RECOVERIES
    """Passes that are tried, and kept where they bring the logits closer to FP32."""


@dataclass(frozen=True)
class EngineConfig:
    """TensorRT engines."""

    precision: Precision = "fp16"
    """Precision of the graph that is built."""
    flavour: FlavourChoice = "auto"
    """TensorRT library; auto takes what this machine has."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs that TensorRT-RTX builds for; none named: the GPU here, else 8.6 ahead of time."""
    profiles: Annotated[_Profiles, Between(0, 16)] = DEFAULT_PROFILES
    """MIN, OPT, MAX batch sizes of each optimization profile."""
    workspace_mib: Annotated[int, Between(1, 2**20)] = 4096
    """Memory that TensorRT may use for tactics, MiB."""


@dataclass(frozen=True)
class ValidationConfig:
    """Accuracy, latency and gates. A gate that is null is not set."""

    subset: SubsetName | None = None
    """ImageNet benchmark set whose classes are compared; null means all classes."""
    limit: _Images | None = None
    """How many images are drawn, stratified by class; null means every image."""
    seed: Seed = 0
    """Seed of the draw."""
    batch_size: BatchSize = 8
    """Images per inference when accuracy is measured."""
    threads: Annotated[int, Between(1, MAX_THREADS)] | None = None
    """CPU threads of one inference; null means every processor, or OMP_NUM_THREADS."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes the GPU for each runtime that can use one."""
    latency_batches: Annotated[tuple[BatchSize, ...], Between(1, 16)] = (1,)
    """Batch sizes whose latency is measured; gates and speed-ups are of the first."""
    margin: _Percent = 0.5
    """Points of top-1 within which two backends count as equal."""
    max_top1_drop: _Percent | None = None
    """Gate: points of top-1 that may be lost against PyTorch."""
    min_speedup: Annotated[float, Between(0, 10**6)] | None = None
    """Gate: times as fast as FP32."""
    max_latency_ms: Annotated[float, Between(0, 10**9)] | None = None
    """Gate: milliseconds per batch."""
    backends: Annotated[tuple[str, ...], Between(1, 100)] | None = None
    """Backends that must run, by runtime or name; null means all that can."""
    allow_cpu_nodes: bool = False
    """Whether ONNX Runtime may leave nodes to the CPU where a GPU was asked for."""


@dataclass(frozen=True)
class RunConfig:
    """One model's whole configuration, as `export_configs/<model>.yaml` holds it."""

    model: str
    """Name in the registry."""
    num_classes: Annotated[int, Between(1, 100_000)]
    """Classes of the head."""
    preprocessing: Preprocessing
    """From image files to the input."""
    quantization: QuantizationConfig
    """Where INT8 is used."""
    options: ModelOptions = DEFAULT_OPTIONS
    """Options of models that take any."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """From checkpoint to ONNX."""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    """Images that activation ranges are measured on."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """TensorRT engines."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Accuracy, latency and gates."""


def load_config(path: Path) -> RunConfig:
    """Read a configuration file. Raises BadInput for bad YAML and bad values."""
    data = read_yaml(path, "Write one: hvt-deploy config MODEL > FILE")
    return from_plain(RunConfig, data, str(path))


def check_model(config: RunConfig, model: str, file: Path) -> None:
    """Raise BadInput unless the configuration, read from `file`, is one of `model`."""
    if config.model != model:
        raise BadInput(
            f"{file} is a configuration of {config.model[:80]}, not of {model}.",
            f"Write one: hvt-deploy config {model} > FILE",
        )


def check_input(config: RunConfig, exported: RunConfig, num_classes: int, file: Path) -> None:
    """Raise BadInput unless a configuration, read from `file`, is for the graph that was
    `exported`, whose head has `num_classes`: with others its answers would be wrong.
    """
    for name in ("num_classes", "preprocessing"):
        expected = {getattr(exported, name), num_classes if name == "num_classes" else None}
        if getattr(config, name) not in expected:
            raise BadInput(
                f"{file} has another `{name}` than the export of {exported.model}.",
                f"Export with it: hvt-deploy export {exported.model} --config {file}",
            )


def load_recipe(path: Path) -> QuantizationConfig:
    """Read a recipe, the `quantization` section by itself. Raises as `load_config` does."""
    return from_plain(
        QuantizationConfig,
        read_yaml(path, "Find one: hvt-deploy quantize --budget 0.5"),
        str(path),
    )


def dump_config(config: RunConfig) -> str:
    """The YAML text of a configuration; `load_config` reads it back."""
    header = (
        f"# Everything a run of {config.model} can set. "
        f"Written by: hvt-deploy config {config.model}\n"
    )
    return header + yaml.safe_dump(
        to_plain(config), sort_keys=False, default_flow_style=None, width=100
    )


def with_absolute_folder(config: RunConfig) -> RunConfig:
    """`config` with the absolute path of its calibration folder, where there is one, to be stored:
    later verbs may run in another working directory.
    """
    images = config.calibration
    if not images.folder or not Path(images.folder).is_dir():
        return config
    absolute = str(Path(images.folder).absolute())
    return replace(config, calibration=replace(images, folder=absolute))


def with_flags(config: RunConfig, flags: Mapping[str, object]) -> RunConfig:
    """`config` with the values of flags, by dotted key (`export.opset`); None: not given.

    Raises BadInput for a bad value, KeyError for a key that no configuration has.
    """
    plain = cast("dict[str, Any]", to_plain(config))
    for key, value in flags.items():
        *sections, name = key.split(".")
        place = plain
        for section in sections:
            place = cast("dict[str, Any]", place[section])
        if name not in place:
            raise KeyError(key)
        if value is not None:
            place[name] = to_plain(value)
    return from_plain(RunConfig, plain, "options")
