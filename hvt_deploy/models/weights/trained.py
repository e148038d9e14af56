"""Weights that were trained on this machine: a file in the cache next to the record of its
training, named by all that decides it, so that those of another recipe are not taken for it.
"""

from __future__ import annotations

import json
from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_bytes, hash_file
from hvt_deploy.core.records import parse_fields, read_content
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.data.elpv import identify_elpv
from hvt_deploy.models.spec import ModelSpec


def find_trained(spec: ModelSpec, cache_dir: Path) -> Path:
    """Where the weights of a model of solar cells are, trained by its present recipe or not yet."""
    decisive = [
        spec.architecture,
        spec.num_classes,
        spec.preprocessing,
        spec.checkpoint.trained,
        identify_elpv(),
    ]
    identity = hash_bytes(json.dumps(to_plain(decisive), sort_keys=True).encode())
    return cache_dir / "elpv" / f"{spec.name}-{identity[:12]}.safetensors"


def find_record(checkpoint: Path) -> Path:
    """Where the record of a training is."""
    return checkpoint.with_suffix(".json")


def is_trained(checkpoint: Path) -> bool:
    """Whether a training ended here. Raises BadInput where its weights are not those it wrote."""
    record = find_record(checkpoint)
    if not (checkpoint.is_file() and record.is_file()):
        return False
    advice = f"Delete {record} to train again."
    recorded = parse_fields(read_content(record), str(record), advice).get("sha256")
    sha256 = hash_file(checkpoint)
    if sha256 != recorded:
        raise BadInput(
            f"{checkpoint} is not the file that was trained: its sha256 is {sha256}, recorded is "
            f"{recorded}.",
            advice,
        )
    return True
