"""Runs in an environment with tritonclient: prints the configurations of REPOSITORY as JSON.

python triton_configs.py REPOSITORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2


def parse_configs(repository: Path) -> dict[str, dict[str, object]]:
    """What the client library's protobuf reads; raises for a field that Triton does not know."""
    parsed = {}
    for file in sorted(repository.glob("*/config.pbtxt")):
        config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
        parsed[config.name] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return parsed


if __name__ == "__main__":
    print(json.dumps(parse_configs(Path(sys.argv[1]))))
