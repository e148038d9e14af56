"""The released files: wheel and sdist are whole, and the wheel runs the demo where nothing else is
installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import hvt_deploy

ROOT = Path(__file__).parent.parent
RELEASE = f"hvt_deploy-{hvt_deploy.__version__}"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of both: DIST, or a temporary one. The wheel is built from the sdist."""
    folder = Path(os.environ.get("DIST") or tmp_path_factory.mktemp("dist"))
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    return folder


def files_below(folder):
    paths = (
        Path(top) / name
        for top, _, names in os.walk(ROOT / folder, followlinks=True)
        for name in names
    )
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(dist):
    with zipfile.ZipFile(dist / f"{RELEASE}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        metadata = message_from_string(wheel.read(f"{RELEASE}.dist-info/METADATA").decode())
    about = {name for name in names if name.startswith(f"{RELEASE}.dist-info/")}
    assert names - about == files_below("hvt_deploy")
    assert names >= {
        "hvt_deploy/runtime/triton/templates/network.py",
        "hvt_deploy/data/assets/imagenet_1k.txt",
        "hvt_deploy/export_configs/fdvit_b.yaml",
        "hvt_deploy/evaluation/report/template.html.j2",
    }
    assert f"{RELEASE}.dist-info/licenses/LICENSE" in about
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.14,>=3.10"


def test_the_sdist_holds_what_building_and_testing_need(dist):
    with tarfile.open(dist / f"{RELEASE}.tar.gz") as archive:
        names = {member.name.removeprefix(f"{RELEASE}/") for member in archive if member.isfile()}
    folders = (
        "hvt_deploy",
        "export_configs",
        "tests",
        "benchmarks",
        "typings",
        "docs",
        "docker",
        "training",
        ".ci",
    )
    for folder in folders:
        assert files_below(folder) <= names, folder
    assert {
        name for name in names if not name.startswith(tuple(f"{folder}/" for folder in folders))
    } == {
        "pyproject.toml",
        "constraints.txt",
        "Makefile",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "COMPATIBILITY.md",
        "PKG-INFO",
        ".gitignore",
        ".dockerignore",
    }


def test_the_wheel_runs_the_demo_in_an_environment_of_its_own(dist, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    wheel = f"hvt-deploy[export,cpu,rtx,demo] @ {(dist / f'{RELEASE}-py3-none-any.whl').as_uri()}"
    install = [
        tmp_path / "venv" / "bin" / "pip",
        "install",
        "--quiet",
        "-c",
        ROOT / "constraints.txt",
        wheel,
    ]
    subprocess.run(install, check=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    command = [tmp_path / "venv" / "bin" / "hvt-deploy", "demo"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ort int8 cpu" in done.stdout
    assert list((tmp_path / "demo").rglob("*.engine"))
    assert list((tmp_path / "demo").rglob("report.html"))
