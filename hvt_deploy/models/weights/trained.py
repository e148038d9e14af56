"""Weights that were trained on this machine: a file in the cache next to the record of its
training.
"""

from __future__ import annotations

from pathlib import Path

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file
from hvt_deploy.core.records import parse_fields, read_content


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
