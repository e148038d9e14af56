"""The examples of docs/api.md, run in their order, as a script and as a notebook; threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hvt_deploy as hd
from hvt_deploy.data.digits import write_digits

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the digits in `data`, as a user's program finds it; it is the current one."""
    digits = write_digits(tmp_path / "digits")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to(digits.calibration)
    (tmp_path / "data/val").symlink_to(digits.validation)
    photo = sorted((digits.validation / "3").iterdir())[0]
    photo.rename(photo.with_name("0001.png"))
    for name, value in {"OMP_NUM_THREADS": "1", "CI": "", "CXX": "no-compiler"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PAGE.parent.parent), *sys.path]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_as_a_script(place):
    assert len(EXAMPLES) > 5
    (place / "example.py").write_text("\n".join(EXAMPLES))
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fdvit_demo.fp32.onnx" in done.stdout
    assert "Unknown exported model in artifacts 'fdvit_b'" in done.stdout
    assert (place / "report.html").stat().st_size > 100_000


def test_threads_export_one_after_the_other(place):
    with ThreadPoolExecutor(2) as pool:
        models = list(pool.map(hd.export, ["hvt_demo", "fdvit_demo"]))
    assert [model.name for model in models] == ["hvt_demo", "fdvit_demo"]
    assert not any(model.exported.before for model in models)


def test_as_a_notebook(place):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    new_cell = nbformat.v4.new_code_cell
    cells = [new_cell(example) for example in (*EXAMPLES, "results", "quantized", "engine")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in cells for output in cell.outputs]
    loud = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert all("HvtDeployWarning" in text for text in loud)
    shown = [cell.outputs[-1].data["text/html"] for cell in cells[-3:]]
    assert "ort int8 cpu" in shown[0]
    assert "SQNR against FP32" in shown[1]
    assert "kernels per inference" in shown[2]
