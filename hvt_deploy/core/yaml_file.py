"""YAML files that people write, read within bounds: no aliases, no key twice, of a few KiB."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from hvt_deploy.core.errors import BadInput

# Forty times the largest configuration; PyYAML reads it in less than a second.
MAX_YAML_BYTES = 64 << 10
_SHOWN_CHARACTERS = 120


class _Loader(yaml.SafeLoader):
    """Plain values only, each written out: aliases can make 400 bytes into gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = cast("yaml.Event", self.peek_event())  # pyright: ignore[reportUnknownMemberType]
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(None, None, "an alias; write the value itself", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key that is no word", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"the key {key.value} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, advice: str) -> object:
    """The plain values of a YAML file; `advice` says how to get one.

    Raises BadInput for a file that is missing, cannot be read, is too large or nested too deep, has
    an alias or a key twice, or is not YAML.
    """
    try:
        if path.exists() and not (
            path.is_file() or path.is_dir()
        ):  # a pipe would be waited for without end
            raise BadInput(f"{path} is not a file.", advice)
        with path.open("rb") as stream:
            content = stream.read(MAX_YAML_BYTES + 1)
        if len(content) > MAX_YAML_BYTES:
            raise BadInput(f"{path} has more than {MAX_YAML_BYTES >> 10} KiB.", advice)
        return yaml.load(content.decode(), _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}.", advice) from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", advice) from None
    except RecursionError:
        raise BadInput(f"{path} is not valid YAML: it is nested too deep.", advice) from None
    except (yaml.YAMLError, ValueError) as error:  # bad UTF-8 and bad dates are ValueErrors
        raise BadInput(f"{path} is not valid YAML: {_describe(error)}.", advice) from None


def _describe(error: Exception) -> str:
    """What is wrong, and in which line."""
    text, line = str(error), ""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        text, line = error.problem, f"line {error.problem_mark.line + 1}: "
    return f"{line}{' '.join(text.split())[:_SHOWN_CHARACTERS]}"
