"""swin_t of torchvision at full size, as both of torch's exporters write it."""

from __future__ import annotations

import re

import pytest
from command_line import run
from foreign_files import draw, write_dynamo, write_legacy
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
