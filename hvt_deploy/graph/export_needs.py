"""The memory and disk space that an export needs, checked before the work begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.environment import available_memory_bytes, free_disk_bytes
from hvt_deploy.core.errors import MissingEnvironment

# Measured by benchmarks/large_export.py: the largest process needs its libraries and this many
# copies of the weights, with external weights and with weights in memory. The disk holds the
# reference form and the graphs, plus their structure.
_COPIES, _COPIES_IN_MEMORY = 1.1, 6.5
_LIBRARIES_BYTES = 1.0e9
_STRUCTURE_BYTES = 5.0e7


@dataclass(frozen=True)
class ExportNeeds:
    """The resources that an export needs, and those that this machine has."""

    parameters: int
    """Number of float32 parameters of the model."""
    memory_bytes: int
    """Estimated peak memory of the largest process."""
    available_memory_bytes: int
    """Memory available now."""
    disk_bytes: int
    """Estimated size of all files that are written."""
    free_disk_bytes: int
    """Free space on the disk of the target folder."""

    @property
    def fits(self) -> bool:
        """Whether both memory and disk space suffice."""
        return (
            self.memory_bytes <= self.available_memory_bytes
            and self.disk_bytes <= self.free_disk_bytes
        )


def estimate_export(
    parameters: int, graph_bytes: int, target: Path, *, external: bool, graphs: int = 1
) -> ExportNeeds:
    """The resources for exporting `graphs` graphs into the folder `target`.

    The model has `parameters` float32 parameters, each graph `graph_bytes` of weights and
    constants, which are `external` (in a file next to the graph) or not.
    """
    copies = _COPIES if external else _COPIES_IN_MEMORY
    return ExportNeeds(
        parameters=parameters,
        memory_bytes=int(copies * max(graph_bytes, 4 * parameters) + _LIBRARIES_BYTES),
        available_memory_bytes=available_memory_bytes(),
        disk_bytes=int(4 * parameters + graphs * graph_bytes + _STRUCTURE_BYTES),
        free_disk_bytes=free_disk_bytes(target),
    )


def require_resources(needs: ExportNeeds, target: Path) -> None:
    """Raise MissingEnvironment naming the resource that does not suffice."""
    if needs.disk_bytes > needs.free_disk_bytes:
        raise MissingEnvironment(
            f"Writing to {target} needs {needs.disk_bytes / 1e9:.2f} GB, "
            f"only {needs.free_disk_bytes / 1e9:.2f} GB are free.",
            "Free some space or choose another folder with --workspace DIR.",
        )
    if needs.memory_bytes > needs.available_memory_bytes:
        raise MissingEnvironment(
            f"Exporting {needs.parameters / 1e6:.0f} M parameters needs "
            f"{needs.memory_bytes / 1e9:.1f} GB of memory, "
            f"only {needs.available_memory_bytes / 1e9:.1f} GB are available.",
            "Close other programs, or export on a machine with more memory and copy the workspace "
            "folder here.",
        )
