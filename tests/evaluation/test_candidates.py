"""Which rows a machine with a GPU is asked for: PyTorch's faster forms beside the reference."""

from __future__ import annotations

import json

from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.core.config import with_flags
from hvt_deploy.core.environment import Gpu
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.evaluation import candidates as rows
from hvt_deploy.evaluation.candidates import plan_rows

TINY = {
    "input_size": 32,
    "patch_size": 8,
    "num_heads": 1,
    "num_blocks": 2,
    "pool_kernel_size": 3,
    "pool_stride": 2,
    "pool_block_width": 2,
}


def test_on_a_gpu_pytorch_runs_in_its_faster_forms_too(tmp_path, monkeypatch) -> None:
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    folder = open_folder(tmp_path / "artifacts", "tiny")
    config = with_flags(config_of(str(tmp_path / "tiny.json")), {"export.weights": "random"})
    export(folder, config, None, SilentUi())

    def planned() -> list[tuple[str, str, str]]:
        found = plan_rows(folder, folder.read(), config.validation)
        return [
            (p.row.backend, p.row.precision, p.row.device) for p in found if p.runtime == "pytorch"
        ]

    assert planned() == [("pytorch fp32", "fp32", "cpu")]
    monkeypatch.setattr(rows, "find_gpus", lambda: (Gpu("NVIDIA L4", "8.9", 23034, "580.1"),))
    assert planned() == [
        ("pytorch fp32", "fp32", "cuda"),
        ("pytorch fp16", "fp16", "cuda"),
        ("pytorch fp16 compiled", "fp16", "cuda"),
    ]
