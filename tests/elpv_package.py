"""A stand-in for the package elpv-dataset: its layout and its numbers of cells, in tiny images."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from hvt_deploy.core.files import hash_file
from hvt_deploy.data import elpv
from hvt_deploy.models import registry

# Cells by (probability of a defect, module), counted in labels.csv of version 1.0.0.post1.
COUNTS = {
    ("0.0", "mono"): 588,
    ("0.0", "poly"): 920,
    ("0.3333333333333333", "mono"): 117,
    ("0.3333333333333333", "poly"): 178,
    ("0.6666666666666666", "mono"): 56,
    ("0.6666666666666666", "poly"): 50,
    ("1.0", "mono"): 313,
    ("1.0", "poly"): 402,
}


def install_stand_in(site: Path, monkeypatch) -> Path:
    """Put the package into `site`, which is importable then, as the version that is known."""
    data = site / "elpv_dataset" / "data"
    (data / "images").mkdir(parents=True)
    (site / "elpv_dataset" / "__init__.py").touch()
    about = site / "elpv_dataset-1.0.0.post1.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text("Name: elpv-dataset\nVersion: 1.0.0.post1\n")
    rows = [row for row, count in COUNTS.items() for _ in range(count)]
    lines, rng = [], np.random.default_rng(0)
    for number, (probability, module) in enumerate(rows, start=1):
        # The class is the brightness, so that the images can be learnt.
        level = 40 + 50 * (2 * (probability != "0.0") + (module == "poly"))
        pixels = rng.integers(level - 20, level + 20, (8, 8), dtype=np.uint8)
        file = f"images/cell{number:04d}.png"
        Image.fromarray(pixels).save(data / file)
        lines.append(f"{file}  {probability:<20} {module}\n")
    (data / "labels.csv").write_text("".join(lines))
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    files = [data / "labels.csv", *(data / line.split()[0] for line in lines)]
    monkeypatch.setattr(elpv, "_SHA256", hash_file(*files))
    return data


def shorten_training(model: str, epochs: int, monkeypatch) -> None:
    """Let the recipe of a model of solar cells have so few passes over the images."""
    spec = registry.get_spec(model)
    recipe = replace(spec.checkpoint.trained, epochs=epochs)
    short = replace(spec, checkpoint=replace(spec.checkpoint, trained=recipe))
    monkeypatch.setitem(registry._SPECS, model, short)
