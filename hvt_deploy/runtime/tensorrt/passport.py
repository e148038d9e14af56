"""The sidecar file of an engine: its origin and its audit, and the check before it is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hvt_deploy import __version__
from hvt_deploy.core.environment import tool_versions
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.files import hash_bytes, hash_file
from hvt_deploy.core.gpus import Gpu
from hvt_deploy.core.records import read_record
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import FlavourName, Precision, Skipped
from hvt_deploy.graph.analysis.engine_audit import EngineAudit
from hvt_deploy.graph.analysis.engine_cost import ProfileCost
from hvt_deploy.runtime.tensorrt.build import BuildOutcome
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, format_engine_tag
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

PASSPORT_SCHEMA = 2
_SEALS = "seals"
REBUILD = "hvt-deploy build-trt"


@dataclass(frozen=True)
class Passport:
    """The record of an engine file.

    The sidecar file also holds a seal of each field, so that an edited one can be named. Like the
    hash of the engine it proves integrity, not origin.

    Attributes:
        engine_sha256: hash of the engine file.
        onnx_sha256: hash of the ONNX file that it was built from.
        calibration_sha256: hash of the list of calibration images, "" for a graph without INT8.
        flavour: the library that built it and that it runs in.
        version: version of that library.
        compute_capabilities: compute capabilities ("8.6") that it was built for.
        gpu: name of the GPU it was built on, "" for an engine built ahead of time.
        profiles: optimization profiles; empty for a graph of fixed batch size.
        precision: precision of the ONNX file.
        audit: layers, MACs and weights by the precision that they run in.
        tool_versions: versions of the installed packages, by distribution name.
        hvt_deploy: version of this package.
        schema_version: version of this record.
        costs: cost at the batch of each profile, next to that of FP16.
    """

    engine_sha256: str
    onnx_sha256: str
    calibration_sha256: str
    flavour: FlavourName
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    profiles: tuple[Profile, ...]
    precision: Precision
    audit: EngineAudit
    tool_versions: Mapping[str, str]
    hvt_deploy: str
    schema_version: int = PASSPORT_SCHEMA
    costs: tuple[ProfileCost, ...] = ()

    @property
    def target(self) -> str:
        """Where the engine runs, and with which profiles: see `format_engine_tag`."""
        library = FlavourInfo(self.flavour, self.version)
        profiles = [profile.batches for profile in self.profiles]
        return format_engine_tag(library, self.compute_capabilities, profiles)

    def write(self, engine: Path) -> Path:
        """Write the sidecar of `engine`; returns its path."""
        path = passport_path(engine)
        plain = cast("dict[str, object]", to_plain(self))
        sealed = {**plain, _SEALS: {field: _seal(field, value) for field, value in plain.items()}}
        path.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")
        return path


@dataclass(frozen=True)
class Machine:
    """The machine that a passport is checked against.

    Attributes:
        flavours: the TensorRT libraries, installed or skipped.
        gpus: its GPUs, the one that engines run on first.
    """

    flavours: tuple[FlavourInfo | Skipped, ...]
    gpus: tuple[Gpu, ...]


def make_passport(
    plan: BuildPlan,
    outcome: BuildOutcome,
    gpus: Sequence[Gpu],
    precision: Precision,
    audit: EngineAudit,
    calibration_sha256: str,
    costs: tuple[ProfileCost, ...] = (),
) -> Passport:
    """The passport of an engine that was just built from `plan.onnx`."""
    return Passport(
        engine_sha256=hash_file(outcome.engine),
        onnx_sha256=hash_file(plan.onnx),
        calibration_sha256=calibration_sha256,
        flavour=outcome.flavour.name,
        version=outcome.flavour.version,
        compute_capabilities=plan.compute_capabilities,
        gpu=gpus[0].name if gpus else "",
        profiles=plan.profiles,
        precision=precision,
        audit=audit,
        tool_versions=tool_versions(),
        hvt_deploy=__version__,
        costs=costs,
    )


def passport_path(engine: Path) -> Path:
    """Where the sidecar of `engine` is."""
    return engine.with_name(engine.name + ".json")


def read_passport(engine: Path, rebuild: str = REBUILD) -> Passport:
    """The sidecar of `engine`; `rebuild` is the command that builds the engine again.

    Raises BadInput if it is missing, damaged, in an unknown format or was edited.
    """
    path, hint = passport_path(engine), _rebuild_hint(rebuild)
    try:
        fields = dict(read_record(path, PASSPORT_SCHEMA, hint))
    except FileNotFoundError:
        raise BadInput(
            f"{engine} has no passport {path.name}: its origin is unknown.", hint
        ) from None
    if not isinstance(fields.get(_SEALS), dict):
        raise BadInput(f"{path} is damaged: it has no seals.", hint)
    seals = cast("Mapping[str, object]", fields.pop(_SEALS))
    for field in {**seals, **fields}:
        if field not in fields or seals.get(field) != _seal(field, fields[field]):
            says = f"says {json.dumps(fields[field])[:80]}" if field in fields else "is gone"
            raise BadInput(
                f"{path} was edited: its field '{field}' {says}, unlike the file that was built.",
                hint,
            )
    try:
        return from_plain(Passport, fields, str(path))
    except BadInput as error:
        raise BadInput(error.message, hint) from None


def check_passport(
    engine: Path, passport: Passport, machine: Machine, rebuild: str = REBUILD
) -> None:
    """Raise unless `engine` is the file of this passport and can run here.

    To be called before the engine is deserialized. `rebuild` is the command that builds it again.
    Raises BadInput where file and passport do not belong together, MissingEnvironment where the
    library, its version or the GPU does not fit the engine.
    """
    check_engine_file(engine, passport, rebuild)
    hint = _rebuild_hint(rebuild)
    built_with = FlavourInfo(passport.flavour, passport.version)
    _check_library(built_with, machine.flavours, hint)
    _check_gpu(built_with, passport, machine.gpus, hint)


def check_engine_file(engine: Path, passport: Passport, rebuild: str = REBUILD) -> None:
    """Raise BadInput unless `engine` is the file that its passport describes."""
    hint = _rebuild_hint(rebuild)
    if not engine.is_file():
        raise BadInput(f"There is no engine {engine}.", hint)
    found = hash_file(engine)
    if found != passport.engine_sha256:
        raise BadInput(
            f"{engine.name} is not the file its passport describes: sha256 {found[:12]}…, "
            f"the passport says {passport.engine_sha256[:12]}…",
            hint,
        )


def describe_other_card(passport: Passport, gpu: Gpu) -> str:
    """A note on an engine that runs on another card of the same compute capability than it was
    built on; empty otherwise. TensorRT-RTX compiles for the card that it runs on.
    """
    if passport.flavour != "tensorrt" or passport.gpu in ("", gpu.name):
        return ""
    return (
        f"Built on {passport.gpu} and run on {gpu.name}: its kernels were chosen by their speed on "
        "the other card."
    )


def _check_library(
    built_with: FlavourInfo, flavours: Sequence[FlavourInfo | Skipped], hint: str
) -> None:
    installed = next(
        (f for f in flavours if isinstance(f, FlavourInfo) and f.name == built_with.name), None
    )
    if installed is None:
        raise MissingEnvironment(
            f"The engine runs only in {built_with.title}, which is not installed.", hint
        )
    if installed.version != built_with.version:
        raise MissingEnvironment(
            f"The engine was built with {built_with.title}; "
            f"here is {installed.title}, which cannot run it.",
            hint,
        )


def _check_gpu(built_with: FlavourInfo, passport: Passport, gpus: Sequence[Gpu], hint: str) -> None:
    wanted = " or ".join(passport.compute_capabilities)
    if not gpus:
        raise MissingEnvironment(
            f"The engine needs an NVIDIA GPU of compute capability {wanted}; there is none here.",
            f"It runs only in {built_with.title}. On another machine run build-trt there.",
        )
    if gpus[0].compute_capability not in passport.compute_capabilities:
        raise MissingEnvironment(
            f"The engine is for compute capability {wanted}; "
            f"the {gpus[0].name} here has {gpus[0].compute_capability}.",
            hint,
        )


def _rebuild_hint(rebuild: str) -> str:
    return f"Build it again: {rebuild}"


def _seal(field: str, value: object) -> str:
    return hash_bytes(json.dumps([field, value], sort_keys=True).encode())[:16]
