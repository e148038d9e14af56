"""On which provider each node of a session really ran, from ONNX Runtime's own profile.

The profile is a JSON list of trace events. A node that ran is one with category `Node`, a name that
ends in `_kernel_time` and its provider among the arguments; other events of a node and those of GPU
kernels have none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure

_RAN = "_kernel_time"
_SHOWN_NODES = 10


@dataclass(frozen=True)
class Placement:
    """The provider of each node of the optimized graph, by the node's name."""

    providers: Mapping[str, str]
    """Execution provider by node name."""

    def outside(self, provider: str) -> tuple[str, ...]:
        """The nodes that ran anywhere else."""
        return tuple(node for node, where in self.providers.items() if where != provider)

    @property
    def sentence(self) -> str:
        """How many nodes ran where; those of the CPU by name where most ran on something else."""
        (most, _), *others = Counter(self.providers.values()).most_common()
        counts = [f"{len(self.providers) - len(self.outside(most))} nodes on {most}"]
        for provider, _ in others:
            nodes = [node for node, where in self.providers.items() if where == provider]
            counts.append(f"{len(nodes)} on {provider} ({_name_nodes(nodes)})")
        return f"{', '.join(counts)}."


def read_placement(profile: Path) -> Placement:
    """Read a profile that `InferenceSession.end_profiling` wrote. Raises ToolFailure where it names
    no node.
    """
    providers: dict[str, str] = {}
    try:
        events = cast("list[dict[str, object]]", json.loads(profile.read_text(encoding="utf-8")))
        for event in events:
            name, arguments = (
                str(event.get("name", "")),
                cast("dict[str, str]", event.get("args", {})),
            )
            if event.get("cat") == "Node" and name.endswith(_RAN) and arguments.get("provider"):
                node = (
                    name.removesuffix(_RAN)
                    or f"{arguments.get('op_name')} {arguments.get('node_index')}"
                )
                providers[node] = arguments["provider"]
    except (OSError, ValueError, AttributeError) as error:
        raise ToolFailure(f"ONNX Runtime's profile {profile} cannot be read: {error}.") from error
    if not providers:
        raise ToolFailure(f"ONNX Runtime's profile {profile} names no node that ran.")
    return Placement(providers)


def refuse_elsewhere(placement: Placement, provider: str, name: str) -> None:
    """Raise MissingEnvironment that names the nodes of backend `name` which did not run on
    `provider`.
    """
    nodes = placement.outside(provider)
    if nodes:
        elsewhere = ", ".join(sorted({placement.providers[node] for node in nodes}))
        raise MissingEnvironment(
            f"{len(nodes)} of {len(placement.providers)} nodes of {name} do not run on the "
            f"{provider} but on the {elsewhere}: {_name_nodes(nodes)}.",
            "Its latency would be that of both. To accept that: "
            "hvt-deploy validate --allow-cpu-nodes",
        )


def _name_nodes(nodes: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(nodes) - _SHOWN_NODES} more" if len(nodes) > _SHOWN_NODES else ""
    return ", ".join(nodes[:_SHOWN_NODES]) + more
