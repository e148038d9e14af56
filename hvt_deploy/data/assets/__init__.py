"""Files that come with the package: class names, recorded logits, weights of the demo models."""

from __future__ import annotations

from pathlib import Path


def asset_path(name: str) -> Path:
    """Where the packaged file `name` is (`golden/fdvit_b.json`); it may not exist."""
    return Path(__file__).parent / name
