"""What an export needs of memory and disk, and what there is: known before the work begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.environment import available_memory_bytes, free_disk_bytes
from hvt_deploy.core.errors import MissingEnvironment

# Measured by benchmarks/large_export.py: the largest of the processes holds the weights so many
# times beside what its libraries take, where the graph's weights are in a file; those in memory are
# copied on their way. On disk are the reference form and the graphs, and room for their structure.
_COPIES, _COPIES_IN_MEMORY = 1.1, 6.5
_LIBRARIES_BYTES = 1.0e9
_STRUCTURE_BYTES = 5.0e7


@dataclass(frozen=True)
class ExportNeeds:
    """Bytes that an export of `parameters` weights needs beside those that there are."""

    parameters: int
    memory_bytes: int
    available_memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int

    @property
    def fits(self) -> bool:
        """Whether there is enough of both."""
        return (
            self.memory_bytes <= self.available_memory_bytes
            and self.disk_bytes <= self.free_disk_bytes
        )


def estimate_export(
    parameters: int, graph_bytes: int, target: Path, *, beside: bool, graphs: int = 1
) -> ExportNeeds:
    """What exporting into the folder `target` needs now: of float32 `parameters` a graph with
    `graph_bytes` of weights and constants, which are in a file `beside` it or not. A fine-tuned
    head changes little.
    """
    copies = _COPIES if beside else _COPIES_IN_MEMORY
    return ExportNeeds(
        parameters=parameters,
        memory_bytes=int(copies * max(graph_bytes, 4 * parameters) + _LIBRARIES_BYTES),
        available_memory_bytes=available_memory_bytes(),
        disk_bytes=int(4 * parameters + graphs * graph_bytes + _STRUCTURE_BYTES),
        free_disk_bytes=free_disk_bytes(target),
    )


def refuse_what_does_not_fit(needs: ExportNeeds, target: Path) -> None:
    """Raise MissingEnvironment that says what lacks."""
    if needs.disk_bytes > needs.free_disk_bytes:
        raise MissingEnvironment(
            f"Writing to {target} needs {needs.disk_bytes / 1e9:.2f} GB, only {needs.free_disk_bytes / 1e9:.2f} GB are "
            "free.",
            "Free some space or choose another folder with --workspace DIR.",
        )
    if needs.memory_bytes > needs.available_memory_bytes:
        raise MissingEnvironment(
            f"Exporting {needs.parameters / 1e6:.0f} M parameters needs {needs.memory_bytes / 1e9:.1f} GB of memory, "
            f"only {needs.available_memory_bytes / 1e9:.1f} GB are available.",
            "End other programs, or export on a machine with more memory and copy the workspace folder here.",
        )
