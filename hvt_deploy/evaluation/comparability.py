"""What two validations must share to be compared: images for accuracy, the machine for speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hvt_deploy.evaluation.record import DataSummary, Results


def are_same_images(before: DataSummary, after: DataSummary) -> bool:
    """Whether both are of the same images and labels, wherever they were: by their hash, or where
    a record of an earlier version has none by what describes the folder.
    """
    if before.sha256 and after.sha256:
        return before.sha256 == after.sha256
    return _describe(before) == _describe(after)


def _describe(data: DataSummary) -> tuple[object, ...]:
    return Path(data.path).name, data.images, data.classes, data.seed, data.limit, data.subset


def list_other_machine(before: Results, after: Results) -> Iterator[str]:
    """A sentence for each thing that speeds depend on and that differs."""
    for key in ("cpu", "gpu", "threads"):
        was, now = before.environment.get(key), after.environment.get(key)
        if was != now:
            yield f"Another {key}: {was}, then {now}. Speeds are not compared."
