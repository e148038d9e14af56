"""Finding a model's weights file: packaged, given, trained, cached or downloaded."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.files import hash_file, replace_file
from hvt_deploy.core.locks import hold_alone
from hvt_deploy.data.assets import asset_path
from hvt_deploy.models.spec import Checkpoint, ModelSpec
from hvt_deploy.models.weights.hub import find_in_hub_cache, is_on_hub, locate_on_hub
from hvt_deploy.models.weights.trained import find_trained, is_trained
from hvt_deploy.models.weights.transfer import HostUnreachable, fetch, looks_like_html

# sha256 of every file as it was first seen, in the folder of the files.
RECORD_NAME = "sha256.json"
_HUB_NAMES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class ObtainedWeights:
    """The weights to use.

    Attributes:
        path: Their file; None for seeded random weights and for those that the code brings.
        source: Who gave them.
        untrained: Whether they are random.
        warning: A sentence for the user; empty if there is no problem.
    """

    path: Path | None
    source: Literal["official", "packaged", "trained", "file", "random", "factory"]
    untrained: bool
    warning: str


def obtain_weights(
    spec: ModelSpec,
    choice: str,
    cache_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> ObtainedWeights:
    """Decide on `choice`: auto, official, random or the path of a checkpoint.

    `auto` takes the weights that a factory's network has, the packaged or the official file (from
    `cache_dir`, else downloaded into it; `progress` gets bytes done and total) or those that `demo`
    trained, and falls back to random weights only where no file was published or its host cannot be
    reached. `official` raises MissingEnvironment there. Raises BadInput for a missing file, an
    answer other than the file, an incomplete download and a file that is not the one first
    downloaded or trained.
    """
    if choice == "random":
        return _untrained("Random weights were asked for.")
    if choice not in ("auto", "official"):
        path = Path(choice)
        with suppress(RuntimeError):  # there is no such user
            path = path.expanduser()
        if not path.is_file():
            raise _no_file(choice)
        return ObtainedWeights(path, "file", untrained=False, warning="")
    if (given := _with_model(spec.checkpoint, choice)) is not None:
        return given
    if spec.checkpoint.trained is not None:
        path = find_trained(spec, cache_dir)
        if is_trained(path):
            return ObtainedWeights(path, "trained", untrained=False, warning="")
        why = (
            f"{spec.name} was not trained on this machine by its present recipe, and nobody may "
            "publish its weights."
        )
        train = f"Train it: hvt-deploy demo --data elpv --family {spec.family}"
        if choice == "official":
            raise BadInput(why, train)
        return _untrained(f"{why} {train}.")
    if spec.checkpoint.url is None:
        if choice == "official":
            raise BadInput(
                f"No weights of {spec.name} were published.",
                "Give a file, or random, with --weights.",
            )
        return _untrained(f"No weights of {spec.name} were published.")
    try:
        return ObtainedWeights(
            _official_file(spec, cache_dir, progress), "official", untrained=False, warning=""
        )
    except HostUnreachable as unreachable:
        if choice == "official":
            raise
        return _untrained(f"{unreachable.message} {unreachable.hint}")


def _no_file(choice: str) -> BadInput:
    takes = "--weights takes auto, official, random or a file."
    on_hub = re.fullmatch(r"hf[-_]hub:([\w.-]+/[\w.-]+)(?:@(.+))?", choice)  # as timm writes it
    if not on_hub and "://" not in choice:
        return BadInput(f"There is no checkpoint file {choice}.", takes)
    address = choice
    if on_hub:
        name, revision = on_hub[1], on_hub[2] or "main"
        address = f"https://huggingface.co/{name}/resolve/{revision}/model.safetensors"
    return BadInput(f"{choice} is an address. {takes}", f"Download it first: curl -fLO {address}")


def _with_model(checkpoint: Checkpoint, choice: str) -> ObtainedWeights | None:
    """The weights that come with the model: in this package, in its own file or with its code."""
    if checkpoint.packaged is not None:
        path = asset_path(checkpoint.packaged)
        return ObtainedWeights(path, "packaged", untrained=False, warning="")
    if checkpoint.own_file is not None and choice == "auto":
        return ObtainedWeights(checkpoint.own_file, "file", untrained=False, warning="")
    if checkpoint.with_code and choice == "auto":
        return ObtainedWeights(None, "factory", untrained=False, warning="")
    return None


def direct_url(checkpoint: Checkpoint) -> str:
    """The address of the file itself: Google Drive's share links answer with a page."""
    url = checkpoint.url or ""
    shared = re.search(r"/file/d/([\w-]+)", url)
    if checkpoint.how != "google-drive" or shared is None:
        return url
    return f"https://drive.usercontent.google.com/download?id={shared[1]}&export=download&confirm=t"


def _untrained(reason: str) -> ObtainedWeights:
    warning = (
        f"{reason} The model has seeded RANDOM weights: it is UNTRAINED and its accuracy means "
        "nothing."
    )
    return ObtainedWeights(None, "random", untrained=True, warning=warning)


def _cache_name(spec: ModelSpec) -> str:
    """Models that were published in one file share it. Drive's links name no file, hubs call all of
    them alike.
    """
    published = PurePosixPath(urllib.parse.urlsplit(spec.checkpoint.url or "").path).name
    if spec.checkpoint.how == "direct" and published not in _HUB_NAMES:
        return published
    return re.sub(r"[:/]", "-", spec.name) + (PurePosixPath(published).suffix or ".pth")


def _official_file(
    spec: ModelSpec, cache_dir: Path, progress: Callable[[int, int], None] | None
) -> Path:
    path, url = cache_dir / _cache_name(spec), direct_url(spec.checkpoint)
    name, by_hand = path.name, _by_hand(spec.checkpoint, path)
    if not path.is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        cached = find_in_hub_cache(url) if is_on_hub(url) else None
        if cached is None:
            source = locate_on_hub(url, by_hand) if is_on_hub(url) else url
            fetch(source, path, by_hand, progress)
        path = cached or path
    _check_record(path, name, cache_dir / RECORD_NAME)
    return path


def _by_hand(checkpoint: Checkpoint, path: Path) -> str:
    return (
        f"Fetch {checkpoint.url} by hand and save it as {path}, or give a file with --weights PATH."
    )


def _check_record(path: Path, name: str, record_path: Path) -> None:
    """Record the file's sha256 as that of `name` the first time, compare it from then on."""
    sha256 = hash_file(path)
    if name not in _read_record(record_path):
        _add_to_record(record_path, path, name, sha256)
    recorded = _read_record(record_path)[name]
    if recorded != sha256:
        raise BadInput(
            f"{path} is not the file first seen: its sha256 is {sha256}, recorded is {recorded}.",
            "Delete it to download it again; if the published file has changed, delete the line of "
            f"{name} in {record_path} too.",
        )


def _add_to_record(record_path: Path, path: Path, name: str, sha256: str) -> None:
    """Add a file that no other process added meanwhile."""
    with path.open("rb") as file:
        if looks_like_html(file.read(512)):
            raise BadInput(
                f"{path} is a web page, not a checkpoint.",
                "Delete it and save the file itself there.",
            )
    with hold_alone(record_path.with_name(f".{RECORD_NAME}.lock")):
        record = {name: sha256, **_read_record(record_path)}
        with replace_file(record_path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")


def _read_record(path: Path) -> dict[str, str]:
    """sha256 by file name: every whole entry, also of a record that was damaged."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return dict(re.findall(r'"([^"\n]+)": "([0-9a-f]{64})"', text))
