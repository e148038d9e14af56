"""Facts of the official models, for tests; the weight rule itself is in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hvt_deploy.models.verification import draw, fill, goldens, images, state

__all__ = ["draw", "facts", "fill", "goldens", "images", "state"]


def facts(model: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{model}.json").read_text())
