"""The sidecar file of an engine: what it is, and whether it may be opened here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hvt_deploy import __version__
from hvt_deploy.core.environment import Gpu, tool_versions
from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.files import hash_bytes, hash_file
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import FlavourName, Skipped
from hvt_deploy.graph.analysis.audit_types import EngineAudit
from hvt_deploy.runtime.tensorrt.api import FlavourInfo, flavour_of
from hvt_deploy.runtime.tensorrt.build import BuildOutcome
from hvt_deploy.runtime.tensorrt.plan import BuildPlan, Profile

PASSPORT_SCHEMA = 2
_SEALS = "seals"


@dataclass(frozen=True)
class Passport:
    """What is known of an engine file. `gpu` is "" for an engine built ahead of time.

    `precision` is what the ONNX file was made as, `audit` what the engine does.
    `calibration_sha256` is the hash of the list of images that ranges were measured on, "" where
    none were. The file holds a seal of each field besides, so that an edited one can be named. Like
    the hash of the engine it proves integrity, not origin.
    """

    engine_sha256: str
    onnx_sha256: str
    calibration_sha256: str
    flavour: FlavourName
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str
    profiles: tuple[Profile, ...]
    precision: str
    audit: EngineAudit
    tool_versions: Mapping[str, str]
    hvt_deploy: str
    schema_version: int = PASSPORT_SCHEMA

    def write(self, engine: Path) -> Path:
        """Write the sidecar of `engine`; returns its path."""
        path = passport_path(engine)
        plain = cast("dict[str, object]", to_plain(self))
        sealed = {**plain, _SEALS: {field: _seal(field, value) for field, value in plain.items()}}
        path.write_text(json.dumps(sealed, indent=2) + "\n", encoding="utf-8")
        return path


@dataclass(frozen=True)
class Machine:
    """What a passport is checked against."""

    flavours: tuple[FlavourInfo | Skipped, ...]
    gpus: tuple[Gpu, ...]


def make_passport(
    plan: BuildPlan,
    outcome: BuildOutcome,
    gpus: Sequence[Gpu],
    precision: str,
    audit: EngineAudit,
    calibration_sha256: str,
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
    )


def passport_path(engine: Path) -> Path:
    """Where the sidecar of `engine` is."""
    return engine.with_name(engine.name + ".json")


def read_passport(engine: Path, rebuild: str = "") -> Passport:
    """The sidecar of `engine`. Raises BadInput if it is missing, damaged, of another form or was
    edited.

    `rebuild` is the command that makes the engine again; without it the engine's name gives one.
    """
    path, hint = passport_path(engine), _hint(engine, rebuild)
    try:
        data = cast("object", json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BadInput(
            f"{engine} has no passport {path.name}: its origin is unknown.", hint
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is damaged: {error}.", hint) from None
    if not isinstance(data, dict) or not isinstance(
        cast("dict[str, object]", data).get(_SEALS), dict
    ):
        raise BadInput(f"{path} is no passport, or one of another version of hvt-deploy.", hint)
    fields = cast("dict[str, object]", data)
    seals = cast("Mapping[str, object]", fields.pop(_SEALS))
    for field in {**seals, **fields}:
        if field not in fields or seals.get(field) != _seal(field, fields[field]):
            says = f"says {json.dumps(fields[field])[:80]}" if field in fields else "is gone"
            raise BadInput(
                f"{path} was edited: its field '{field}' {says}, which is not what the build wrote.",
                hint,
            )
    try:
        return from_plain(Passport, fields, str(path))
    except BadInput as error:
        raise BadInput(error.message, hint) from None


def check_passport(engine: Path, passport: Passport, machine: Machine, rebuild: str = "") -> None:
    """Raise unless `engine` is the file of this passport and can run here. To be called before it
    is deserialized.

    `rebuild` is the command that makes the engine again; without it the engine's name gives one.
    BadInput: the file and the passport do not belong together.
    MissingEnvironment: library, version or GPU is another than the engine's.
    """
    hint = _hint(engine, rebuild)
    if not engine.is_file():
        raise BadInput(f"There is no engine {engine}.", hint)
    found = hash_file(engine)
    if found != passport.engine_sha256:
        raise BadInput(
            f"{engine.name} is not the file its passport describes: sha256 {found[:12]}…, "
            f"the passport says {passport.engine_sha256[:12]}…",
            hint,
        )
    if flavour_of(engine) != passport.flavour:
        raise BadInput(
            f"{engine.name} is by its name not for {passport.flavour}, as its passport says.", hint
        )
    built_with = FlavourInfo(passport.flavour, passport.version)
    _check_library(built_with, machine.flavours, hint)
    _check_gpu(built_with, passport, machine.gpus, hint)


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
            f"The engine was built with {built_with.title}; here is {installed.title}, which cannot run it.",
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
            f"The engine is for compute capability {wanted}; the {gpus[0].name} here has {gpus[0].compute_capability}.",
            hint,
        )


def _hint(engine: Path, rebuild: str) -> str:
    named = re.match(r"(.+)\.(fp32|fp16|int8|int8-fp32)\.(?:rtx|trt\d)", engine.name)
    flags = f" {named[1]} --precision {named[2]}" if named else ""
    return f"Build it again: {rebuild or f'hvt-deploy build-trt{flags}'}"


def _seal(field: str, value: object) -> str:
    return hash_bytes(json.dumps([field, value], sort_keys=True).encode())[:16]
