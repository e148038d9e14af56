"""`package`: an exported model as a folder that a server takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.commands.distribution import permit_distribution
from hvt_deploy.commands.recorded_names import names_of
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import new_folder, sync_tree, writing_to
from hvt_deploy.core.gpus import find_gpus
from hvt_deploy.core.manifest import PIXELS, GraphKey, Manifest
from hvt_deploy.core.types import OnnxPlatform
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.report.notebook import render_cell
from hvt_deploy.evaluation.report.tables import Grid
from hvt_deploy.runtime.tensorrt.flavours import FlavourInfo, format_engine_tag
from hvt_deploy.runtime.triton.repository import Network, Platform, write_repository
from hvt_deploy.runtime.triton.served_profiles import choose_served_profiles

GPU_GRAPHS: tuple[GraphKey, ...] = ("int8", "fp16", "fp32")
CPU_GRAPHS: tuple[GraphKey, ...] = ("int8-cpu", "fp32")
DEFAULT_MAX_BATCH = 32


@dataclass(frozen=True)
class Packaged:
    """A Triton model repository that was just written."""

    folder: Path
    """Its folder."""
    ensemble: str
    """The model that takes image files."""
    pixels_model: str | None
    """The model that takes uint8 pixels, where there is one."""
    models: tuple[str, ...]
    """Names of all models."""
    engine_versions: Mapping[str, str]
    """The TensorRT version of each model that is an engine; the server needs the same."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to send to which model, and the server that it needs."""
        pixels = f"Send uint8 pixels (batch, height, width, 3) to the model {self.pixels_model}."
        engines = [
            f"{model} needs a server with TensorRT {version}, the version of its engine."
            for model, version in self.engine_versions.items()
        ]
        if engines:
            engines.append(
                "A server's version: find / -name 'libnvinfer.so.*' inside its container."
            )
        return (
            f"Send image files to the model {self.ensemble}.",
            *([pixels] if self.pixels_model else []),
            *engines,
        )

    def _repr_html_(self) -> str:
        models = Grid(str(self.folder), ("model",), tuple((model,) for model in self.models))
        return render_cell([models], self.sentences)


def package_triton(
    folder: ModelFolder, target: Path, onnx_platform: OnnxPlatform, allow_untrained: bool, ui: Ui
) -> Packaged:
    """Write a Triton model repository to `target`, which must be empty or not there.

    It appears whole or not at all. TensorRT engines come first, with every profile that Triton can
    serve, then ONNX graphs: INT8, FP16 and FP32 where there is a GPU, else the CPU variant of INT8,
    and FP32; last the graph that preprocesses, where there is one. A CPU variant that something
    speaks against is left out, with a warning. Raises BadInput for untrained
    weights that are not allowed, for a fixed batch and for a `target` that holds something.
    """
    with folder.reading() as manifest:
        return _package(folder, manifest, target.absolute(), onnx_platform, allow_untrained, ui)


def _package(
    folder: ModelFolder,
    manifest: Manifest,
    target: Path,
    onnx_platform: OnnxPlatform,
    allow_untrained: bool,
    ui: Ui,
) -> Packaged:
    permit_distribution(manifest, ui, allow_untrained=allow_untrained)
    if (batch := manifest.signature.batch) is not None:
        raise BadInput(
            f"{folder.slug} takes batches of exactly {batch}, and Triton's batches have any size.",
            "Export it without --batch.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target} is not an empty folder.", "Give a new one: package --triton DIR")
    on_gpu = bool(find_gpus())
    networks = [
        *_engines(folder, manifest, ui),
        *_graphs_to_pack(folder, manifest, onnx_platform, on_gpu, ui),
    ]
    pixels_model = next((network.name for network in networks if network.takes_pixels), None)
    with writing_to(target), new_folder(target) as staged:
        models = write_repository(
            staged,
            folder.slug,
            networks,
            manifest.signature,
            manifest.preprocessing,
            names_of(manifest).names,
        )
        sync_tree(staged)
    versions = {network.name: network.built_with for network in networks if network.built_with}
    return Packaged(target, folder.slug, pixels_model, models, versions)


def _engines(folder: ModelFolder, manifest: Manifest, ui: Ui) -> Iterator[Network]:
    """Engines of the full TensorRT that take a single image."""
    for key, facts in manifest.engines.items():
        if facts.flavour != "tensorrt":
            ui.warn(f"{key} is left out: Triton has no backend for TensorRT-RTX.")
            continue
        served = choose_served_profiles(facts.profiles)
        if served is None:
            ui.warn(
                f"{key} is left out: it takes no single image, and Triton sends batches of any "
                "size. Build it with --profile 1,OPT,MAX."
            )
            continue
        if len(served.indices) < len(facts.profiles):
            ui.warn(
                f"{key}: only batch sizes up to {served.max_batch} are served, because the next "
                "larger one is in no profile."
            )
        library = FlavourInfo(facts.flavour, facts.version)
        tag = format_engine_tag(library, facts.compute_capabilities, facts.profiles)
        tag = tag.replace(".", "_")
        yield Network(
            f"{folder.slug}_{facts.precision}-{tag}",
            "tensorrt",
            folder.open_artifact(manifest, key),
            served.max_batch,
            on_gpu=True,
            profiles=served.indices,
            opt_batches=served.opt_batches,
            built_with=facts.version,
        )


def _graphs_to_pack(
    folder: ModelFolder, manifest: Manifest, platform: Platform, on_gpu: bool, ui: Ui
) -> Iterator[Network]:
    for key in (*(GPU_GRAPHS if on_gpu else CPU_GRAPHS), PIXELS):
        if fault := manifest.find_fault(key):
            ui.warn(f"{key} is left out, FP32 is served: {fault}")
        elif key in manifest.artifacts:
            file = folder.open_artifact(manifest, key)
            yield Network(
                f"{folder.slug}_{key}",
                platform,
                file,
                DEFAULT_MAX_BATCH,
                on_gpu=on_gpu and platform != "python",
                takes_pixels=key == PIXELS,
            )
