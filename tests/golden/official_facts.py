"""Facts of the official models, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_facts(model: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{model}.json").read_text())
