"""Engines of an exported model for the GPU of this machine, built once each."""

from __future__ import annotations

from pathlib import Path

from exported import MODEL, EnginePrecision, Exported

from hvt_deploy.core.gpus import Gpu
from hvt_deploy.core.types import FlavourChoice
from hvt_deploy.graph.analysis.node_facts import read_facts
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.tensorrt.audit import audit_layers
from hvt_deploy.runtime.tensorrt.build import build_engine
from hvt_deploy.runtime.tensorrt.passport import (
    Machine,
    check_passport,
    make_passport,
    read_passport,
)
from hvt_deploy.runtime.tensorrt.plan import (
    BuildPlan,
    Profile,
    choose_flavour,
    name_engine_file,
)

PROFILES = (Profile(1, 1, 1), Profile(1, 8, 16))


class Engines:
    """Builds the engine of a library and precision on the first of `gpus`, with its passport."""

    def __init__(self, exported: Exported, gpus: tuple[Gpu, ...]) -> None:
        self._exported = exported
        self._gpus = gpus
        self._built: dict[tuple[FlavourChoice, EnginePrecision], Path] = {}

    def build(self, asked: FlavourChoice, precision: EnginePrecision) -> Path:
        """The engine file. Raises as `choose_flavour` and `build_engine` do."""
        if (asked, precision) not in self._built:
            self._built[asked, precision] = self._build(asked, precision)
        return self._built[asked, precision]

    def _build(self, asked: FlavourChoice, precision: EnginePrecision) -> Path:
        flavour = choose_flavour(asked, gpu_present=True)
        capabilities = (self._gpus[0].compute_capability,)
        folder, onnx = self._exported.folder, self._exported.onnx(precision)
        engine = folder / name_engine_file(MODEL, precision, flavour, capabilities)
        plan = BuildPlan(
            onnx=onnx,
            engine=engine,
            flavour=flavour.name,
            compute_capabilities=capabilities,
            profiles=PROFILES,
            workspace_mib=4096,
            timing_cache=folder / f"{flavour.name}.cache",
        )
        outcome = build_engine(plan)
        audit = audit_layers(outcome.layers, read_facts(load_onnx(onnx, weights=False)))
        make_passport(plan, outcome, self._gpus, precision, audit, "").write(engine)
        check_passport(engine, read_passport(engine), Machine((flavour,), self._gpus))
        return engine
