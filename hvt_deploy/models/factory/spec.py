"""The specification of a user's network, `module:factory`, from one run of the factory."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hvt_deploy.core.environment import require
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file
from hvt_deploy.core.model_options import FactorySource, ModelOptions
from hvt_deploy.core.records import parse_fields
from hvt_deploy.core.serialization import from_plain
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.worker import TimeUp, run_in_child
from hvt_deploy.models.factory.trial import FactoryTrial
from hvt_deploy.models.spec import Checkpoint, ModelSpec

# Weights may be downloaded by it.
FACTORY_LIMIT_S = 300.0
DEFAULT_SIZE = (224, 224)
_TRIAL_MODULE = "hvt_deploy.models.factory.network"
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class FactoryArchitecture:
    """A network that only its factory knows."""

    name: str
    """`module:factory`."""
    source: FactorySource
    """Where the code is, and how it is called."""


def is_factory(name: str) -> bool:
    """Whether a model's name is `module:factory`."""
    return _NAME.fullmatch(name) is not None and not name.startswith("timm:")


def spec_of_factory(
    name: str,
    image_size: tuple[int, int] | None = None,
    source: FactorySource | None = None,
    num_classes: int | None = None,
) -> ModelSpec:
    """The spec of `module:factory`; without a `source` the factory is tried out.

    It gets `num_classes` where that is given. Raises BadInput for a factory that fails, takes too
    long or makes anything else than a classifier of such images, MissingEnvironment without
    PyTorch.
    """
    size = image_size or DEFAULT_SIZE
    source = source or _try_factory(name, size, num_classes)
    return ModelSpec(
        name=name,
        family="factory",
        architecture=FactoryArchitecture(name, source),
        num_classes=source.num_classes,
        preprocessing=Preprocessing(size),
        published=None,
        measured=None,
        checkpoint=Checkpoint(with_code=True),
        code_licence="not stated",
        weights_licence="not stated",
        resizable=size != DEFAULT_SIZE,
        options=ModelOptions(factory=source),
        heads=(source.head,) if source.head else (),
    )


def hash_code(source: FactorySource) -> dict[str, str]:
    """The sha256 of the user's files as they are now, by path; "" for one that is missing."""
    return {p: hash_file(Path(p)) if Path(p).is_file() else "" for p in source.files}


def describe_changes(source: FactorySource) -> str:
    """A sentence that names the user's files that are not what they were; "" where none is."""
    changed = [path for path, sha256 in hash_code(source).items() if sha256 != source.files[path]]
    if not changed:
        return ""
    return f"The code of the network has changed since the export: {', '.join(changed)}."


def _try_factory(name: str, size: tuple[int, int], num_classes: int | None) -> FactorySource:
    require("torch", extra="export")
    with tempfile.TemporaryDirectory(prefix="hvt-deploy-") as scratch:
        found = Path(scratch) / "source.json"
        trial = FactoryTrial(name, str(Path.cwd()), size, num_classes, found)
        try:
            run_in_child(_TRIAL_MODULE, trial, limit_s=FACTORY_LIMIT_S)
        except TimeUp as error:
            raise BadInput(
                f"{name} did not return within {FACTORY_LIMIT_S:.0f} seconds.{error.log}",
                "A factory makes a network and returns it; nothing else.",
            ) from None
        if not found.is_file():
            raise BadInput(
                f"{name} ended the process.", "A factory makes a network and returns it."
            )
        return from_plain(FactorySource, parse_fields(found.read_bytes(), name, ""), name)
