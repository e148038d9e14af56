"""What needs an NVIDIA GPU. `python benchmarks/gpu_check.py` runs it all there and keeps what was
measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from exported import MODEL, Exported, reference_model

from hvt_deploy.core.environment import find_gpus
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.tensors import Signature


@pytest.fixture(scope="session", autouse=True)
def needs_gpu() -> None:
    if not find_gpus():
        pytest.skip("there is no NVIDIA GPU here")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Appends a measurement, as one line of JSON, to the file that GPU_CHECK_RECORDS names."""

    def write(**facts: object) -> None:
        path = os.environ.get("GPU_CHECK_RECORDS")
        if path:
            with Path(path).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"test": request.node.name, **to_plain(facts)}) + "\n")

    return write


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    from hvt_deploy.graph.analysis.roles import DEFAULT_INT8_ROLES
    from hvt_deploy.graph.export import export_onnx
    from hvt_deploy.graph.opset import convert_opset
    from hvt_deploy.graph.quantization.fp16 import to_fp16
    from hvt_deploy.graph.quantization.qdq import quantize_int8
    from hvt_deploy.graph.quantization.ranges import collect_ranges
    from hvt_deploy.graph.simplify import simplify
    from hvt_deploy.graph.storage import save_onnx
    from hvt_deploy.models import to_deployed

    model = reference_model()
    signature = Signature(model.spec.image_size, model.num_classes)
    noise = np.random.default_rng(0).standard_normal(signature.images_shape(16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("exported")
    graph = simplify(export_onnx(to_deployed(model), signature, 17), "onnxslim")
    fp32 = convert_opset(graph, 17)
    save_onnx(fp32, folder / f"{MODEL}.fp32.onnx")
    ranges = collect_ranges(folder / f"{MODEL}.fp32.onnx", np.array_split(noise, 4), threads=4)
    quantized = quantize_int8(convert_opset(graph, 19), ranges, DEFAULT_INT8_ROLES)
    save_onnx(to_fp16(fp32, ranges).model, folder / f"{MODEL}.fp16.onnx")
    save_onnx(to_fp16(quantized, ranges).model, folder / f"{MODEL}.int8.onnx")
    save_onnx(quantized, folder / f"{MODEL}.int8-fp32.onnx")
    made = Exported(folder, signature, noise, np.empty(0, np.float32))
    with closing(made.open("pytorch", "cpu", "fp32", folder)) as backend:
        return Exported(folder, signature, noise, backend.infer(noise))


@pytest.fixture(scope="session")
def engines(exported: Exported) -> Iterator[Callable[[str, str], Path]]:
    """Builds the engine of a flavour and precision on this GPU, once."""
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
        choose_capabilities,
        choose_flavour,
        name_engine_file,
    )

    built: dict[tuple[str, str], Path] = {}
    gpus = find_gpus()

    def build(asked: str, precision: str) -> Path:
        if (asked, precision) not in built:
            flavour = choose_flavour(asked, gpu_present=True)
            capabilities = choose_capabilities(flavour.name, gpus, ())
            engine = exported.folder / name_engine_file(MODEL, precision, flavour, capabilities)
            profiles = (Profile(1, 1, 1), Profile(1, 8, 16))
            cache = exported.folder / f"{flavour.name}.cache"
            onnx = exported.onnx(precision)
            plan = BuildPlan(onnx, engine, flavour.name, capabilities, profiles, 4096, cache)
            make_passport(plan, build_engine(plan), gpus, precision).write(engine)
            check_passport(engine, read_passport(engine), Machine((flavour,), gpus))
            built[asked, precision] = engine
        return built[asked, precision]

    return build
