"""ViT and Swin of transformers, as torch exports them, through every step to a validated engine.

This test installs transformers from PyPI into a folder of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from command_line import run

from hvt_deploy.data.digits import write_digits
from hvt_deploy.graph.quantization.engine_int8 import find_int8_attention

PACKAGES = ("transformers==5.24.0", "tokenizers==0.23.3", "regex==2026.11.19")
TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files, and digits of seven classes."""
    place = tmp_path_factory.mktemp("place")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", place / "packages")
    subprocess.run([sys.executable, *install, *PACKAGES], check=True)
    paths = (place / "packages", TESTS, TESTS.parent)
    subprocess.run(
        [sys.executable, TESTS / "write_transformers.py", place],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        check=True,
    )
    write_digits(place / "digits")
    for digit in "789":
        shutil.rmtree(place / "digits/validation" / digit)
    (place / "names.txt").write_text("\n".join("0123456"))
    return place


@pytest.mark.parametrize(
    ("name", "blocks"), [("vit_legacy", 2), ("vit_dynamo", 2), ("swin_legacy", 3)]
)
def test_from_the_file_to_a_validated_engine(place, name, blocks):
    """Whether attention is INT8 is a choice of the calibration; that it could be is tested."""
    flags = ("--preprocessing", "crop_pct=1", "--class-names", "names.txt")
    done = run("export", f"{name}.onnx", *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    (path,) = place.glob(f"artifacts/{name}/*/{name}.fp32.onnx")
    assert len(find_int8_attention(onnx.load(path))) == blocks
    flags = ("--calib", "digits/calibration", "--calib-images", "8", "--calibrator", "max")
    done = run("quantize", name, "--int8", *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    (sqnr_db,) = re.findall(r"int8 .*: SQNR ([\d.]+) dB", done.stderr + done.stdout)
    assert float(sqnr_db) > 20
    flags = ("--int8", "--compute-capability", "8.6", "--profile", "1,8,8")
    done = run("build-trt", name, *flags, cwd=place)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"fused attention blocks +2 of {blocks}", done.stdout), done.stdout
    done = run("diagnose", name, "--graph", "fp32", "--data", "digits/validation", cwd=place)
    assert done.returncode == 0, done.stderr
    done = run("validate", name, "--data", "digits/validation", "--limit", "14", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "ort int8 cpu" in done.stdout
