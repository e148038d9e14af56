"""The job of the process that tries a factory out. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FactoryTrial:
    """Make a network, run it once, and write the FactorySource."""

    name: str
    """`module:factory`."""
    folder: str
    """Folder that the module is imported from, besides the installed packages."""
    image_size: tuple[int, int]
    """(height, width), pixels."""
    num_classes: int | None
    """Handed to the factory; None: it is called without arguments."""
    found: Path
    """The file to write, JSON."""
