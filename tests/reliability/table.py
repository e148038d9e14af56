"""All kinds of bad input, by the group of their channel."""

from __future__ import annotations

import artifact_kinds
import checkpoint_kinds
import configuration_kinds
import environment_kinds
import file_kinds
import flag_kinds
import folder_kinds
import image_kinds
from kinds import Kind

_GROUPS: dict[str, tuple[Kind, ...]] = {
    "images": image_kinds.KINDS,
    "checkpoints": checkpoint_kinds.KINDS,
    "flags": flag_kinds.KINDS,
    "artifacts": (*artifact_kinds.KINDS, *file_kinds.KINDS),
    "folders": folder_kinds.KINDS,
    "environments": environment_kinds.KINDS,
    "configurations": configuration_kinds.KINDS,
}
CHANNELS: dict[str, list[str]] = {g: [kind.name for kind in kinds] for g, kinds in _GROUPS.items()}
KINDS: dict[str, Kind] = {kind.name: kind for kinds in _GROUPS.values() for kind in kinds}
