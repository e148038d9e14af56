"""swin_t of torchvision and a small ViT as both of torch's exporters write them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command_line import run, run_process
from foreign_files import draw, make_vit, write_dynamo, write_legacy
from torchvision.models import swin_t


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_legacy, write_dynamo])
def test_attention_is_fused_in_the_engine_of_a_file(tmp_path, write):
    write(draw(swin_t()), tmp_path / "net.onnx", side=224)
    done = run("export", "net.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flags = ("--fp16", "--compute-capability", "8.6", "--profile", "1,8,8")
    done = run("build-trt", "net", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"fused attention blocks +12 of 12", done.stdout), done.stdout


@pytest.mark.parametrize("write", [write_legacy, write_dynamo])
def test_a_vision_transformer_becomes_fp16(tmp_path, write):
    """And anybody's session opens it, in a process of its own: ONNX Runtime crashed, see
    `graph/transpose_order.py`.
    """
    write(make_vit(), tmp_path / "vit.onnx")
    done = run("export", "vit.onnx", "--preprocessing", "crop_pct=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_process("quantize", "vit", "--fp16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (sqnr_db,) = re.findall(r"fp16: SQNR ([\d.]+) dB", done.stderr + done.stdout)
    assert float(sqnr_db) > 40
    (path,) = tmp_path.glob("artifacts/vit/*/vit.fp16.onnx")
    code = f"import onnxruntime; onnxruntime.InferenceSession({str(path)!r})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
