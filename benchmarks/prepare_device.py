"""Collects what benchmarks/gpu_check.py needs on a GPU machine without network, in .device/.

    python benchmarks/prepare_device.py [PACKAGE...]

For Python 3.12 on x86-64. Small packages are unpacked to .device/site: put it on PYTHONPATH there.
Large ones (onnxruntime-gpu, TensorRT-RTX) are wheels in pieces of at most 48 MiB in .device/pieces,
which can be copied one by one; .device/README.txt has the commands that join and install them.
PACKAGEs name some of them only. Versions are those of constraints.txt.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import ROOT

SMALL = (
    "onnxslim",
    "typer",
    "rich",
    "shellingham",
    "markdown-it-py",
    "mdurl",
    "pygments",
    "annotated-doc",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "einops",
    "nvidia-ml-py",
    "tensorrt-rtx-cu13",
)
# Published as source: pure Python, from which a wheel is made here.
SOURCE = ("tensorrt-rtx-cu13",)
LARGE = ("onnxruntime-gpu", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs")
PIECE_BYTES = 48 << 20
# pip matches the version of glibc exactly.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
FOLDER = ROOT / ".device"
JOIN = """\
The wheels of .device/pieces, joined and installed on the GPU machine. The pieces may arrive one by
one: append each to its wheel in /tmp, in the order of their numbers.

    for piece in .device/pieces/*; do cat "$piece" >> "/tmp/$(basename "${piece%.*}")"; done
    python3 -m pip install --no-index --no-deps --target /tmp/site /tmp/*.whl
    PYTHONPATH=/tmp/site:.device/site python3 benchmarks/gpu_check.py
"""


def download_wheel(package: str, folder: Path) -> Path:
    """The wheel of a package for the GPU machine, in an empty `folder`."""
    if package in SOURCE:
        action = ["wheel", "--wheel-dir", str(folder)]
    else:
        target = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:"]
        for platform in PLATFORMS:
            target += ["--platform", f"{platform}_x86_64"]
        action = ["download", "--dest", str(folder), *target]
    versions = ["--constraint", str(ROOT / "constraints.txt")]
    command = [sys.executable, "-m", "pip", *action, "--quiet", "--no-deps", *versions, package]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def split_file(path: Path, folder: Path, piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """The content of a file as NAME.00, NAME.01 … in `folder`."""
    pieces: list[Path] = []
    with path.open("rb") as file:
        while content := file.read(piece_bytes):
            pieces.append(folder / f"{path.name}.{len(pieces):02}")
            pieces[-1].write_bytes(content)
    return pieces


def main() -> None:
    """Fill .device/ with the packages that are asked for, all of them by default."""
    asked = sys.argv[1:] or [*SMALL, *LARGE]
    for name in ("site", "pieces"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    for package in asked:
        folder = FOLDER / "wheels" / package
        folder.mkdir(parents=True, exist_ok=True)
        wheel = next(folder.glob("*.whl"), None) or download_wheel(package, folder)
        if package in LARGE:
            made = [piece.name for piece in split_file(wheel, FOLDER / "pieces")]
        else:
            with zipfile.ZipFile(wheel) as content:
                content.extractall(FOLDER / "site")
            made = ["site"]
        print(f"{wheel.name}: {', '.join(made)}")
    (FOLDER / "README.txt").write_text(JOIN, encoding="utf-8")


if __name__ == "__main__":
    main()
