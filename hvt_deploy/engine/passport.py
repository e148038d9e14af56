"""The sidecar file of an engine: what it is, and whether it may be opened here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy import __version__
from hvt_deploy.engine.audit import EngineAudit, audit_layers
from hvt_deploy.engine.build import BuildOutcome
from hvt_deploy.engine.flavour import FlavourInfo, FlavourName, flavour_of
from hvt_deploy.engine.plan import BuildPlan, Profile
from hvt_deploy.environment import Gpu, tool_versions
from hvt_deploy.errors import BadInput, MissingEnvironment
from hvt_deploy.records import from_plain, to_plain
from hvt_deploy.results import Skipped

PASSPORT_SCHEMA = 1
_REBUILD = "Build it again on this machine: hvt-deploy build-trt"


@dataclass(frozen=True)
class Passport:
    """What is known of an engine file. `gpu` is "" for an engine built ahead of time.

    `precision` is what the ONNX file was made as; `audit` counts what the engine does.
    """

    engine_sha256: str
    onnx_sha256: str
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
        path.write_text(json.dumps(to_plain(self), indent=2) + "\n", encoding="utf-8")
        return path


@dataclass(frozen=True)
class Machine:
    """What a passport is checked against."""

    flavours: tuple[FlavourInfo | Skipped, ...]
    gpus: tuple[Gpu, ...]


def make_passport(plan: BuildPlan, outcome: BuildOutcome, gpus: Sequence[Gpu], precision: str) -> Passport:
    """The passport of an engine that was just built from `plan.onnx`."""
    return Passport(
        engine_sha256=_hash_file(outcome.engine),
        onnx_sha256=_hash_file(plan.onnx),
        flavour=outcome.flavour.name,
        version=outcome.flavour.version,
        compute_capabilities=plan.compute_capabilities,
        gpu=gpus[0].name if gpus else "",
        profiles=plan.profiles,
        precision=precision,
        audit=audit_layers(outcome.layers),
        tool_versions=tool_versions(),
        hvt_deploy=__version__,
    )


def passport_path(engine: Path) -> Path:
    """Where the sidecar of `engine` is."""
    return engine.with_name(engine.name + ".json")


def read_passport(engine: Path) -> Passport:
    """The sidecar of `engine`. Raises BadInput if it is missing, damaged or of another form."""
    path = passport_path(engine)
    try:
        return from_plain(Passport, json.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise BadInput(f"{engine} has no passport {path.name}: its origin is unknown.", _REBUILD) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path} is damaged: {error}.", _REBUILD) from None


def check_passport(engine: Path, passport: Passport, machine: Machine, rebuild: str = "") -> None:
    """Raise unless `engine` is the file of this passport and can run here. To be called before it is deserialized.

    `rebuild` is the command that makes the engine again. BadInput: the file and the passport do not belong together.
    MissingEnvironment: library, version or GPU is another than the engine's.
    """
    hint = f"Run: {rebuild}" if rebuild else _REBUILD
    if not engine.is_file():
        raise BadInput(f"There is no engine {engine}.", hint)
    found = _hash_file(engine)
    if found != passport.engine_sha256:
        raise BadInput(
            f"{engine.name} is not the file its passport describes: sha256 {found[:12]}…, "
            f"the passport says {passport.engine_sha256[:12]}…",
            hint,
        )
    if flavour_of(engine) != passport.flavour:
        raise BadInput(f"{engine.name} is by its name not for {passport.flavour}, as its passport says.", hint)
    built_with = FlavourInfo(passport.flavour, passport.version)
    _check_library(built_with, machine.flavours, hint)
    _check_gpu(built_with, passport, machine.gpus, hint)


def _check_library(built_with: FlavourInfo, flavours: Sequence[FlavourInfo | Skipped], hint: str) -> None:
    installed = next((f for f in flavours if isinstance(f, FlavourInfo) and f.name == built_with.name), None)
    if installed is None:
        raise MissingEnvironment(f"The engine runs only in {built_with.title}, which is not installed.", hint)
    if installed.version != built_with.version:
        raise MissingEnvironment(
            f"The engine was built with {built_with.title}; here is {installed.title}, which cannot run it.", hint
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


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
