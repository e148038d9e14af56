"""A model repository for NVIDIA Triton Inference Server, from image files to class names.

Three kinds of models (Triton's documentation, "Model Repository" and "Model Configuration"):
`<slug>_preprocess`, the exact evaluation transform in the Python backend; `<slug>_<artifact>`, the
network; `<slug>`, an ensemble of the two. A client sends the bytes of image files to the ensemble
and asks for classes (Triton's classification extension). A network whose preprocessing is in its
graph takes uint8 pixels and needs no ensemble.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hvt_deploy.core import errors, tensors, types
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.tensors import PIXELS_NAME, Signature
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data import decoding, images

Platform = Literal["tensorrt", "onnxruntime", "python"]
_FILES: dict[Platform, str] = {
    "tensorrt": "model.plan",
    "onnxruntime": "model.onnx",
    "python": "network.onnx",
}
# How long a request may wait for others to share its batch.
QUEUE_DELAY_US = 500
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Network:
    """One artifact to serve.

    Attributes:
        name: name of its Triton model.
        platform: Triton backend that runs it; `python` runs an ONNX file with ONNX Runtime in
            Triton's Python backend, for servers without the ONNX Runtime backend.
        file: the engine or ONNX file.
        max_batch: the largest batch it accepts.
        on_gpu: whether the server runs it on a GPU.
        takes_pixels: whether its input is uint8 (height, width, 3) instead of preprocessed images.
        profiles: of an engine, the numbers of the optimization profiles to serve.
        opt_batches: of an engine, the batch sizes that these profiles are tuned for, ascending.
        built_with: of an engine, the TensorRT version, which the server's has to be too.
    """

    name: str
    platform: Platform
    file: Path
    max_batch: int
    on_gpu: bool
    takes_pixels: bool = False
    profiles: tuple[int, ...] = ()
    opt_batches: tuple[int, ...] = (1,)
    built_with: str = ""

    def describe_input(self, signature: Signature) -> tuple[str, str, tuple[int, ...]]:
        """Name, Triton type and dimensions of the input: without the batch, -1 is any size."""
        if self.takes_pixels:
            return PIXELS_NAME, "TYPE_UINT8", (-1, -1, 3)
        return signature.input_name, "TYPE_FP32", (3, *signature.image_size)


def write_repository(
    folder: Path,
    slug: str,
    networks: Sequence[Network],
    signature: Signature,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
) -> tuple[str, ...]:
    """Write the repository into the empty `folder`; returns the names of its models.

    The ensemble `<slug>` uses the first network, `<slug>_<network>` each of the others.
    """
    largest = max(network.max_batch for network in networks)
    _write_preprocess(folder / f"{slug}_preprocess", preprocessing, signature, largest)
    names = [f"{slug}_preprocess"]
    for i, network in enumerate(networks):
        _write_network(folder / network.name, network, signature, class_names)
        names.append(network.name)
        if network.takes_pixels:
            continue
        ensemble = slug if i == 0 else f"{slug}_from_{network.name}"
        _write_ensemble(folder / ensemble, slug, network, signature, class_names)
        names.append(ensemble)
    return tuple(names)


def _write_preprocess(
    model: Path, preprocessing: Preprocessing, signature: Signature, max_batch: int
) -> None:
    version = model / "1"
    package = version / "hvt_deploy"
    version.mkdir(parents=True)
    shutil.copy(_TEMPLATES / "preprocess.py", version / "model.py")
    (version / "preprocessing.json").write_text(
        json.dumps(to_plain(preprocessing), indent=1) + "\n", encoding="utf-8"
    )
    # The server needs numpy and Pillow, not this package: it gets copies of the four modules.
    for module in (errors, tensors, types, decoding, images):
        source = Path(str(module.__file__))
        part = package / source.parent.name
        part.mkdir(parents=True, exist_ok=True)
        (part / "__init__.py").touch()
        shutil.copy(source, part / source.name)
    (package / "__init__.py").touch()
    _write_config(
        model,
        f'name: "{model.name}"',
        'backend: "python"',
        f"max_batch_size: {max_batch}",
        _format_tensor("input", "image", "TYPE_STRING", (1,)),
        _format_tensor("output", signature.input_name, "TYPE_FP32", (3, *signature.image_size)),
        "instance_group [{ kind: KIND_CPU, count: 2 }]",
        _format_batching(max_batch),
    )


def _write_network(
    model: Path, network: Network, signature: Signature, class_names: Sequence[str]
) -> None:
    version = model / "1"
    version.mkdir(parents=True)
    shutil.copy(network.file, version / _FILES[network.platform])
    for weights in network.file.parent.glob("*.data"):
        # The ONNX file refers to its external weights by name: the name must stay.
        shutil.copy(weights, version / weights.name)
    if network.platform == "python":
        shutil.copy(_TEMPLATES / "network.py", version / "model.py")
    _write_labels(model, class_names)
    kind = "KIND_GPU" if network.on_gpu else "KIND_CPU"
    numbers = ", ".join(f'"{index}"' for index in network.profiles)
    profiles = f", profile: [{numbers}]" if network.profiles else ""
    _write_config(
        model,
        *_format_engine_settings(network),
        f'name: "{model.name}"',
        f'backend: "{network.platform}"',
        f"max_batch_size: {network.max_batch}",
        _format_tensor("input", *network.describe_input(signature)),
        _format_tensor(
            "output", signature.output_name, "TYPE_FP32", (signature.num_classes,), labels=True
        ),
        f"instance_group [{{ kind: {kind}, count: 1{profiles} }}]",
        _format_batching(network.max_batch, network.opt_batches),
        _format_warm_up(network, signature),
    )


def _write_ensemble(
    model: Path, slug: str, network: Network, signature: Signature, class_names: Sequence[str]
) -> None:
    (model / "1").mkdir(parents=True)
    # Triton wants the version's folder, and archives drop empty ones.
    (model / "1" / ".keep").touch()
    _write_labels(model, class_names)
    steps = (
        _format_step(f"{slug}_preprocess", {"image": "image"}, {signature.input_name: "pixels"}),
        _format_step(
            network.name,
            {signature.input_name: "pixels"},
            {signature.output_name: signature.output_name},
        ),
    )
    _write_config(
        model,
        f'name: "{model.name}"',
        'platform: "ensemble"',
        f"max_batch_size: {network.max_batch}",
        _format_tensor("input", "image", "TYPE_STRING", (1,)),
        _format_tensor(
            "output", signature.output_name, "TYPE_FP32", (signature.num_classes,), labels=True
        ),
        "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + "\n  ]\n}",
    )


def _write_config(model: Path, *parts: str) -> None:
    (model / "config.pbtxt").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _write_labels(model: Path, class_names: Sequence[str]) -> None:
    one_line = (" ".join(name.split()) for name in class_names)
    (model / "labels.txt").write_text("\n".join(one_line) + "\n", encoding="utf-8")


def _format_tensor(
    direction: Literal["input", "output"],
    name: str,
    data_type: str,
    dims: Sequence[int],
    labels: bool = False,
) -> str:
    label_file = ', label_filename: "labels.txt"' if labels else ""
    fields = f'name: "{name}", data_type: {data_type}, dims: {list(dims)}{label_file}'
    return f"{direction} [{{ {fields} }}]"


def _format_step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [f'input_map {{ key: "{key}", value: "{value}" }}' for key, value in inputs.items()]
    maps += [f'output_map {{ key: "{key}", value: "{value}" }}' for key, value in outputs.items()]
    return f'    {{ model_name: "{model}", model_version: -1, {", ".join(maps)} }}'


def _format_engine_settings(network: Network) -> tuple[str, ...]:
    """An engine's TensorRT version, and CUDA graphs.

    Triton captures a graph for batch size 1, each preferred size and the largest, in every profile
    that takes it; its log has an error for each profile that does not, and goes on. Batches of
    other sizes run without. No other backend knows the setting.
    """
    if network.platform != "tensorrt":
        return ()
    return (
        f"# An engine of TensorRT {network.built_with}: the server's TensorRT must be the same.",
        "optimization { cuda { graphs: true } }",
    )


def _format_batching(max_batch: int, opt_batches: Sequence[int] = ()) -> str:
    if max_batch == 1:
        return ""
    sizes = [batch for batch in opt_batches if batch > 1]
    preferred = f"preferred_batch_size: {sizes}, " if sizes else ""
    return f"dynamic_batching {{ {preferred}max_queue_delay_microseconds: {QUEUE_DELAY_US} }}"


def _format_warm_up(network: Network, signature: Signature) -> str:
    """An inference on noise for each profile before the first request: CUDA starts slowly."""
    name, data_type, dims = network.describe_input(signature)
    size = [256 if edge == -1 else edge for edge in dims]
    data = f"data_type: {data_type}, dims: {size}, random_data: true"
    value = f'inputs {{ key: "{name}", value {{ {data} }} }}'
    samples = (
        f'{{ name: "batch {batch}", batch_size: {batch}, {value} }}'
        for batch in network.opt_batches
    )
    return "model_warmup [\n  " + ",\n  ".join(samples) + "\n]"
