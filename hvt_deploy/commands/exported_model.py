"""An exported model as an object: each method is a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hvt_deploy.commands.arguments import (
    calibration_settings,
    check_choice,
    engine_settings,
    quantization_settings,
)
from hvt_deploy.core.paths import as_path, as_text
from hvt_deploy.core.types import (
    DEFAULT_IMAGES,
    PRECISIONS,
    CalibratorChoice,
    Device,
    FlavourChoice,
    OnnxPlatform,
    Precision,
    Recovery,
    StrPath,
    SubsetName,
)
from hvt_deploy.core.ui import Ui

if TYPE_CHECKING:
    from hvt_deploy.commands.built_engine import Built
    from hvt_deploy.commands.diagnosis import Diagnosis
    from hvt_deploy.commands.explain_build import Explained
    from hvt_deploy.commands.exported_graph import Exported
    from hvt_deploy.commands.package import Packaged
    from hvt_deploy.commands.quantized_graphs import Quantized
    from hvt_deploy.commands.validated import Validated
    from hvt_deploy.core.manifest import Manifest
    from hvt_deploy.core.run_config import RunConfig
    from hvt_deploy.core.workspace import ModelFolder
    from hvt_deploy.evaluation.record import Results


class Model:
    """An exported model, as `export` and `open` give it: a handle on its folder in the workspace,
    which holds nothing open. Its path is that of the folder (`os.fspath`).

    Other programs and threads may use the same model: one that writes has the folder for itself,
    another one gets MissingEnvironment after some seconds.
    """

    def __init__(
        self,
        folder: ModelFolder,
        ui: Ui,
        config: RunConfig | None = None,
        *,
        exported_before: bool = True,
    ) -> None:
        self._folder = folder
        self._ui = ui
        self._config = config
        self._exported_before = exported_before

    @property
    def name(self) -> str:
        """Its name in the workspace."""
        return self._folder.slug

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def manifest(self) -> Manifest:
        """Everything that is recorded: configuration, class names, artifacts, as it is now."""
        return self._folder.read()

    @property
    def config(self) -> RunConfig:
        """The configuration that its methods start from."""
        return self._config or self.manifest.config

    @property
    def exported(self) -> Exported:
        """The FP32 graph and its parity with PyTorch."""
        from hvt_deploy.commands.exported_graph import describe_exported

        return describe_exported(self._folder, self.manifest, before=self._exported_before)

    @property
    def results(self) -> Results:
        """The record of its last validation, as `hvt-deploy report` shows it."""
        from hvt_deploy.commands.report import last_results

        return last_results(self._folder)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<hvt_deploy.Model {self.name!r} in {str(self.path.parent)!r}>"

    def quantize(
        self,
        precision: Precision = "int8",
        *,
        calib: StrPath | None = None,
        calib_images: int | None = None,
        seed: int | None = None,
        calibrator: CalibratorChoice | None = None,
        smooth_quant: bool | None = None,
        bias_correction: bool | None = None,
        weight_rounding: bool | None = None,
        flavour: FlavourChoice | None = None,
        recipe: StrPath | None = None,
        budget: float | None = None,
        budget_data: StrPath | None = None,
        budget_images: int | None = None,
        label_free: bool = False,
    ) -> Quantized:
        """Make the FP16 and INT8 graphs, as `hvt-deploy quantize` does.

        `calib` is a folder of training images. With `budget` the most INT8 is searched that loses
        at most these points of top-1; whether it is proven is in the result's `budget`.
        """
        from hvt_deploy.commands.find_recipe import quantize_within_budget
        from hvt_deploy.commands.quantize import quantize
        from hvt_deploy.commands.quantized_graphs import describe_quantized
        from hvt_deploy.core.serialization import from_plain
        from hvt_deploy.evaluation.budget_record import BudgetRequest

        chosen = check_choice("precision", precision, PRECISIONS)
        recovery: dict[Recovery, bool | None] = {
            "smooth-quant": smooth_quant,
            "bias-correction": bias_correction,
            "weight-rounding": weight_rounding,
        }
        config = self._configure(
            {
                **calibration_settings(calib, calib_images),
                "calibration.seed": seed,
                "engine.flavour": flavour,
                **quantization_settings(recipe, calibrator, recovery, self.config.quantization),
            }
        )
        if budget is None:
            return quantize(self._folder, config, chosen, self._ui)
        asked = {
            "budget": budget,
            "data": as_text("budget_data", budget_data),
            "images": budget_images,
            "label_free": label_free,
        }
        request = from_plain(BudgetRequest, asked, "options")
        found = quantize_within_budget(self._folder, config, request, self._ui)
        return describe_quantized(self._folder, self.manifest, "int8", found)

    def build_trt(
        self,
        precision: Precision | None = None,
        *,
        calib: StrPath | None = None,
        calib_images: int | None = None,
        flavour: FlavourChoice | None = None,
        compute_capabilities: Sequence[str] | None = None,
        profiles: Sequence[tuple[int, int, int]] | None = None,
        min_int8: float | None = None,
        min_int8_of_all: float | None = None,
        max_traffic: float | None = None,
        force: bool = False,
    ) -> Built:
        """Build a TensorRT engine and audit its layers, as `hvt-deploy build-trt` does; quantizes
        first if needed.

        A profile is (min, opt, max) of the batch size. An engine that is kept though it fails a
        gate is the `built` of the CheckFailed that is raised.
        """
        from hvt_deploy.commands.build_trt import build_trt
        from hvt_deploy.commands.engine_gates import EngineGates

        engine = engine_settings(flavour, compute_capabilities, profiles)
        config = self._configure({**engine, **calibration_settings(calib, calib_images)})
        chosen = check_choice("precision", precision or config.engine.precision, PRECISIONS)
        gates = EngineGates(min_int8, min_int8_of_all, max_traffic)
        gates.check_use(chosen)
        built = build_trt(self._folder, config, chosen, self._ui, min_int8, force=force)
        gates.judge(built)
        return built

    def explain_build(
        self,
        precision: Precision | None = None,
        *,
        flavour: FlavourChoice | None = None,
        compute_capabilities: Sequence[str] | None = None,
        profiles: Sequence[tuple[int, int, int]] | None = None,
    ) -> Explained:
        """The plan of a build that is not done, as `hvt-deploy build-trt --explain` prints it."""
        from hvt_deploy.commands.explain_build import explain_build

        config = self._configure(engine_settings(flavour, compute_capabilities, profiles))
        chosen = check_choice("precision", precision or config.engine.precision, PRECISIONS)
        return explain_build(self._folder, config, chosen)

    def validate(
        self,
        data: StrPath = DEFAULT_IMAGES,
        *,
        labels: StrPath | None = None,
        subset: SubsetName | None = None,
        limit: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        device: str | None = None,
        latency_batches: Sequence[int] | None = None,
        margin: float | None = None,
        max_top1_drop: float | None = None,
        min_speedup: float | None = None,
        max_latency_ms: float | None = None,
        backends: Sequence[str] | None = None,
        allow_cpu_nodes: bool = False,
        record: bool = False,
        keep: int = 10,
    ) -> Validated:
        """Compare every backend on the same images, as `hvt-deploy validate` does.

        A gate that fails raises nothing: it is among the result's `gates`.
        """
        from hvt_deploy.commands.validate import validate

        config = self._configure(
            {
                "validation.subset": subset,
                "validation.limit": limit,
                "validation.seed": seed,
                "validation.batch_size": batch_size,
                "validation.threads": threads,
                "validation.device": device,
                "validation.latency_batches": latency_batches,
                "validation.margin": margin,
                "validation.max_top1_drop": max_top1_drop,
                "validation.min_speedup": min_speedup,
                "validation.max_latency_ms": max_latency_ms,
                "validation.backends": backends,
                "validation.allow_cpu_nodes": allow_cpu_nodes or None,
            }
        )
        images, file = as_path("data", data), as_path("labels", labels)
        return validate(self._folder, config, images, file, self._ui, record=record, keep=keep)

    def diagnose(
        self,
        graph: str | None = None,
        *,
        data: StrPath | None = None,
        device: Device = "cpu",
        output: StrPath = Path("diagnosis"),
    ) -> Diagnosis:
        """Find the first module where a graph diverges, as `hvt-deploy diagnose` does.

        `graph` is an artifact ("int8") or an ONNX file; None is every graph. The part of a graph
        that diverges is written below `output`.
        """
        from hvt_deploy.commands.diagnose import diagnose

        images, written = as_path("data", data), as_path("output", output)
        config = self._configure({})
        place = check_choice("device", device, get_args(Device))
        return diagnose(self._folder, config, graph, images, place, written, self._ui)

    def bundle(self, output: StrPath | None = None, *, allow_untrained: bool = False) -> Path:
        """Pack the model for a device, as `hvt-deploy bundle` does; returns the file."""
        from hvt_deploy.commands.bundle import bundle

        file = as_path("output", output) or Path(f"{self.name}.tar")
        return bundle(self._folder, file, allow_untrained, self._ui)

    def package(
        self,
        triton: StrPath = Path("triton"),
        *,
        onnx_backend: OnnxPlatform = "onnxruntime",
        allow_untrained: bool = False,
    ) -> Packaged:
        """Write a repository for Triton Inference Server, as `hvt-deploy package` does."""
        from hvt_deploy.commands.package import package_triton

        folder = as_path("triton", triton)
        backend = check_choice("onnx_backend", onnx_backend, get_args(OnnxPlatform))
        return package_triton(self._folder, folder, backend, allow_untrained, self._ui)

    def _configure(self, settings: Mapping[str, object]) -> RunConfig:
        """The configuration with settings by dotted key; None leaves what it says."""
        from hvt_deploy.core.run_config import with_flags

        return with_flags(self.config, settings)
