"""Where nodes ran: read from a real profile of the CPU, and from one as a GPU's is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from ort_graphs import images, linear, request

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.evaluation.candidates import Candidate
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.opened_rows import open_rows
from hvt_deploy.evaluation.record import Row
from hvt_deploy.runtime import ort, ort_session
from hvt_deploy.runtime.provider_placement import Placement, read_placement
from hvt_deploy.runtime.variant import Variant

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def event(name, provider, op, index, category="Node"):
    arguments = {"op_name": op, "node_index": str(index), "output_size": "2"}
    return {
        "cat": category,
        "pid": 1,
        "tid": 1,
        "dur": 5,
        "ts": 10 * index,
        "ph": "X",
        "name": name,
        "args": {**arguments, "provider": provider} if provider else arguments,
    }


@pytest.fixture
def gpu_profile(tmp_path):
    """A run with CUDA in the form of ONNX Runtime's profiler; one node has no CUDA kernel, so data
    is copied for it.
    """
    events = [
        {
            "cat": "Session",
            "pid": 1,
            "tid": 1,
            "dur": 9,
            "ts": 1,
            "ph": "X",
            "name": "model_run",
            "args": {},
        },
        event("patch_embed/Conv_fence_before", "", "Conv", 1),
        event("patch_embed/Conv_kernel_time", CUDA, "Conv", 1),
        event("ampere_sgemm_128x64_tn", "", "Conv", 1, category="Kernel"),
        event("patch_embed/Conv_fence_after", "", "Conv", 1),
        event("Memcpy_kernel_time", CUDA, "MemcpyToHost", 2),
        event("blocks.0/Unique_kernel_time", CPU, "Unique", 3),
        event("_kernel_time", CUDA, "MatMul", 4),
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    return path


def test_a_gpus_profile_lists_every_node_that_ran(gpu_profile):
    placement = read_placement(gpu_profile)
    assert placement.providers == {
        "patch_embed/Conv": CUDA,
        "Memcpy": CUDA,
        "blocks.0/Unique": CPU,
        "MatMul 4": CUDA,
    }
    assert placement.outside(CUDA) == ("blocks.0/Unique",)
    assert placement.sentence == f"3 nodes on {CUDA}, 1 on {CPU} (blocks.0/Unique)."


def test_a_real_profile_lists_every_node_of_the_graph(tmp_path):
    path = linear(tmp_path / "m.onnx")
    model = onnx.load(path)
    for i, node in enumerate(model.graph.node):
        node.name = f"layer.{i}/{node.op_type}"
    onnx.save(model, path)
    placement = ort.prove_placement(request(path))
    # The Cast from float to float does nothing and is optimized away.
    assert placement == Placement({"layer.0/Flatten": CPU, "layer.2/Gemm": CPU})
    assert not list(tmp_path.glob("*.json"))


@pytest.fixture
def on_gpu(monkeypatch, gpu_profile):
    """The CPU's provider stands for CUDA's; the profile is the recorded one."""
    monkeypatch.setitem(ort_session.PROVIDERS, "cuda", CPU)
    monkeypatch.setattr(ort.onnxruntime, "preload_dlls", lambda: None)
    gpu_profile.write_text(
        gpu_profile.read_text().replace(CPU, "x").replace(CUDA, CPU).replace('"x"', f'"{CUDA}"')
    )
    monkeypatch.setattr(ort, "read_placement", lambda _: read_placement(gpu_profile))


def test_nodes_elsewhere_are_refused_by_name_unless_allowed(tmp_path, on_gpu):
    asked = request(linear(tmp_path / "m.onnx"), device="cuda")
    with pytest.raises(
        MissingEnvironment, match=r"1 of 4 nodes of ort fp32 .*: blocks\.0/Unique"
    ) as caught:
        ort.OrtBackend(asked)
    assert "--allow-cpu-nodes" in caught.value.hint
    backend = ort.OrtBackend(replace(asked, allow_cpu_nodes=True))
    assert backend.placement.providers["blocks.0/Unique"] == CUDA  # the two are exchanged here
    assert np.isfinite(backend.infer(images(2))).all()
    assert ort.OrtBackend(replace(asked, variant=Variant("ort", "cpu", "fp32"))).placement is None


def test_the_session_is_opened_on_the_gpu_that_was_chosen_and_without_tf32(
    tmp_path, on_gpu, monkeypatch
):
    given = []
    session = ort.onnxruntime.InferenceSession

    def open_session(path, options, *, providers, **more):
        given.extend(providers)
        return session(path, options, providers=[CPU], **more)

    monkeypatch.setattr(ort.onnxruntime, "InferenceSession", open_session)
    asked = request(linear(tmp_path / "m.onnx"), device="cuda")
    ort.OrtBackend(replace(asked, allow_cpu_nodes=True, ordinal=1))
    assert given == [(CPU, {"device_id": "1", "use_tf32": "0"})] * 2, (
        "the one that is profiled, and the one that runs"
    )


def test_a_validation_skips_such_a_backend_loudly_or_records_where_its_nodes_are(tmp_path, on_gpu):
    asked = request(linear(tmp_path / "m.onnx"), device="cuda")
    row = Row("m", asked.variant.name, asked.variant, None)
    candidate = Candidate(row, lambda: ort.OrtBackend(asked))
    with (
        pytest.raises(MissingEnvironment, match=r"blocks\.0/Unique"),
        open_rows([candidate], MemoryMeter(None), SilentUi()),
    ):
        pass
    allowed = Candidate(row, lambda: ort.OrtBackend(replace(asked, allow_cpu_nodes=True)))
    with open_rows([candidate, allowed], MemoryMeter(None), SilentUi()) as opened:
        placed, refused = opened.rows
    assert "blocks.0/Unique" in refused.skipped
    row = placed
    assert row.skipped is None
    assert len(row.placement) == 4
    assert "1 on CUDAExecutionProvider (blocks.0/Unique)" in row.note


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '[{"cat": "Session", "name": "model_run", "args": {}}]', "[3]"]
)
def test_a_profile_without_nodes_proves_nothing(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ToolFailure, match=r"p\.json"):
        read_placement(tmp_path / "p.json")
