"""The deployed form is the reference form's function in float64, whatever the weights are, and the
same bits on any number of threads.
"""

from __future__ import annotations

import gc
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from forms import HOSTILE, deviation

from hvt_deploy.models import create_model, list_specs, to_deployed
from hvt_deploy.models.golden_check import fill_parameters, map_large

# The size of any-resolution models here: windows in rows and columns of different number, padding
# at the last level, carrier tokens that change windows.
ANY_RES_SIZE = (224, 448)
OFFICIAL = [spec for spec in list_specs() if not spec.is_demo]
# The models of solar cells are those of the digits in other sizes.
DEMOS = [
    pytest.param(spec.name, marks=[pytest.mark.slow] if spec.checkpoint.trained else [])
    for spec in list_specs()
    if spec.is_demo
]
# Of the others, in the fast tests, the smallest of each family.
SMALL = ("fdvit_ti", "hvt_ti_1", "dfvt_tiny", "faster_vit_0_224")
# Below this many parameters every kind of weights takes seconds.
MANY_KINDS_PARAMETERS = 40e6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same_function(name: str, kinds: list[str], folder: Path, size=None) -> None:
    model = create_model(name, image_size=size).double()
    images = torch.randn(
        1, 3, *model.hvt_spec.image_size, dtype=torch.float64, generator=torch.manual_seed(4)
    )
    for kind in kinds:
        fill_parameters(model, "hostile")
        HOSTILE[kind](model)
        with torch.inference_mode():
            logits = model(images)
        assert logits.abs().max() > 0
        with TemporaryDirectory(dir=folder) as own:  # the one before is still mapped
            model = map_large(model, Path(own))
        deployed = to_deployed(model)
        with torch.inference_mode():
            difference = deviation(deployed(images), logits)
        assert difference <= 1e-9, f"{name} with {kind}: {difference:.1e}"
        del deployed
        gc.collect()


@pytest.mark.parametrize("name", DEMOS)
def test_hostile_weights_of_demo_models(name: str, tmp_path: Path) -> None:
    assert_same_function(name, list(HOSTILE), tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_hostile_weights_of_small_official_models(name: str, tmp_path: Path) -> None:
    assert_same_function(name, ["gains", "mixed"], tmp_path)


def test_hostile_weights_of_windows_that_are_no_square(tmp_path: Path) -> None:
    assert_same_function("faster_vit_0_any_res", ["mixed"], tmp_path, (112, 224))


@pytest.mark.slow
@pytest.mark.parametrize("spec", OFFICIAL, ids=lambda spec: spec.name)
def test_hostile_weights_of_official_models(spec, tmp_path: Path) -> None:
    small = spec.measured.params < MANY_KINDS_PARAMETERS
    kinds = list(HOSTILE) if small else ["gains", "mixed"]
    assert_same_function(spec.name, kinds, tmp_path, ANY_RES_SIZE if spec.resizable else None)


@pytest.mark.parametrize("name", DEMOS)
def test_folding_gives_the_same_bits_on_any_number_of_threads(name: str) -> None:
    model = create_model(name)
    fill_parameters(model, "hostile")
    folded = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        folded.append(to_deployed(model).state_dict())
        assert torch.get_num_threads() == threads, "the caller's number of threads must stay"
    differing = [
        key for key, tensor in folded[0].items() if not torch.equal(tensor, folded[1][key])
    ]
    assert differing == []


# Exports of several models by one process: PyTorch is imported once.
EXPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
from exports import prove_parity_here
import torch, hvt_deploy
prove_parity_here()
for name in sys.argv[4:]:
    torch.set_num_threads(int(sys.argv[2]))  # the comparison with PyTorch sets it to 1
    hvt_deploy.export(name, weights="random", workspace=sys.argv[3])
"""


@pytest.mark.slow
def test_an_export_is_the_same_bytes_on_one_and_two_threads(tmp_path: Path) -> None:
    names = [spec.name for spec in list_specs() if spec.name.endswith("_demo")]
    hashes: list[dict[str, str]] = []
    for threads in ("1", "2"):
        workspace = tmp_path / threads
        words = [str(Path(__file__).parent.parent), threads, str(workspace), *names]
        counts = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", EXPORTS, *words, "faster_vit_0_224"],
            env={**os.environ, **counts},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        graphs = list(workspace.glob("*/fp32-*/*.onnx"))
        hashes.append({g.stem: hashlib.sha256(g.read_bytes()).hexdigest() for g in graphs})
    assert len(hashes[0]) == len(names) + 1
    assert hashes[0] == hashes[1]
