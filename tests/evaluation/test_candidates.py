"""Which rows a machine with a GPU is asked for: PyTorch's faster forms besides the reference."""

from __future__ import annotations

from hvt_deploy.core.gpus import Gpu
from hvt_deploy.evaluation.candidates import plan_rows
from hvt_deploy.runtime import selection


def test_on_a_gpu_pytorch_runs_in_its_faster_forms_too(tmp_path, exported, monkeypatch) -> None:
    folder = exported(tmp_path, "fdvit_demo")

    def planned() -> list[tuple[str, str, str]]:
        found = plan_rows(folder, folder.read(), folder.read().config.validation)
        variants = [one.row.variant for one in found if one.row.variant.runtime == "pytorch"]
        return [(variant.name, variant.precision, variant.device) for variant in variants]

    assert planned() == [("pytorch fp32", "fp32", "cpu")]
    monkeypatch.setattr(selection, "find_gpus", lambda: (Gpu("NVIDIA L4", "8.9", 23034, "13.0"),))
    assert planned() == [
        ("pytorch fp32", "fp32", "cuda"),
        ("pytorch fp16", "fp16", "cuda"),
        ("pytorch fp16 compiled", "fp16", "cuda"),
    ]
