"""All kinds of bad input, by the group of their channel."""

from __future__ import annotations

import artifact_kinds
import checkpoint_kinds
import configuration_kinds
import environment_kinds
import file_kinds
import flag_kinds
import folder_kinds
import full_disk_kinds
import image_kinds
import memory_kinds
import onnx_kinds
from kinds import Kind

_GROUPS: dict[str, tuple[Kind, ...]] = {
    "images": image_kinds.KINDS,
    "checkpoints": checkpoint_kinds.KINDS,
    "flags": flag_kinds.KINDS,
    "artifacts": (*artifact_kinds.KINDS, *file_kinds.KINDS),
    "onnx files": onnx_kinds.KINDS,
    "folders": folder_kinds.KINDS,
    "environments": (*environment_kinds.KINDS, *full_disk_kinds.KINDS),
    "configurations": configuration_kinds.KINDS,
    "memory": memory_kinds.KINDS,
}
# The most memory that a run of a group may take more than the program that was started, MiB: half
# as much again as any took in the last campaign.
MOST_MIB_OF: dict[str, float] = {
    "images": 180,
    "checkpoints": 50,
    "flags": 80,
    "artifacts": 85,
    "onnx files": 80,
    "folders": 65,
    "environments": 170,
    "configurations": 150,
    "memory": 60,
}
CHANNELS: dict[str, list[str]] = {g: [kind.name for kind in kinds] for g, kinds in _GROUPS.items()}
KINDS: dict[str, Kind] = {kind.name: kind for kinds in _GROUPS.values() for kind in kinds}
MOST_MIB: dict[str, float] = {
    name: MOST_MIB_OF[group] for group, names in CHANNELS.items() for name in names
}
