"""Every verb, ended hard before each step that changes the disk, then run again."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forks import ENDED, run_in_fork
from place import MODEL, QUANTIZE, VALIDATE

from hvt_deploy.commands.unpack import unpack
from hvt_deploy.core.files import hash_file
from hvt_deploy.core.manifest import WEIGHTS, is_results
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder

_HASH = re.compile(r"-[0-9a-f]{12}(?=/|$)")
# Of no use to anybody later: locks, interrupted validations, the cache, what libraries leave.
_SCRATCH = re.compile(
    r"(^|/)(\.[a-z.]*lock|\.readers|\.answers(/.*)?|timing-[^/]*\.cache|"
    r"\.[^/]*\.\d+\.new|\.sha256[^/]*)$|^(cache|tmp)(/|$)|(^|/)\.staging-[a-z0-9_]{8}/"
)


@dataclass(frozen=True)
class Verb:
    """A command and what it finds: of the prepared place, the paths in `without` are not there."""

    arguments: Sequence[object]
    without: Sequence[str] = ()
    exit_code: int = 0


VERBS: Mapping[str, Verb] = {
    "export": Verb(("export", "hvt_demo"), ["artifacts"]),
    "export --force": Verb(("export", "hvt_demo", "--force", "--preprocess-in-graph")),
    "export again": Verb(("export", "hvt_demo")),
    "quantize": Verb(QUANTIZE, ["int8", "fp16", "calibration", "engine", "results", "recorded"]),
    "quantize other images": Verb((*QUANTIZE, "--seed", 1)),
    "quantize --budget": Verb((*QUANTIZE, "--budget", 90, "--budget-images", 10, "--label-free")),
    "build-trt": Verb(("build-trt", "--fp16")),
    "build-trt --force": Verb(("build-trt", "--int8", "--force")),
    "validate": Verb(VALIDATE, ["results", "recorded"]),
    "validate --record": Verb((*VALIDATE, "--record", "--keep", 1)),
    "report": Verb(("report", "--format", "html", "--output", "report.html")),
    "report new": Verb(("report", "--format", "json", "--output", "report.json")),
    "diff": Verb(("diff",)),
    "predict": Verb(("predict", "validation/0")),
    "inspect": Verb(("inspect", "hvt_demo")),
    "models": Verb(("models",)),
    "doctor": Verb(("doctor",)),
    "doctor --verify": Verb(("doctor", "--verify", "--sections", "device"), exit_code=3),
    "config --all": Verb(("config", "--all", "configs")),
    "package": Verb(("package", "--triton", "triton")),
    "bundle": Verb(("bundle",)),
    "deploy": Verb(("deploy", "hvt_demo.tar", "--int8", "--data", "validation"), ["artifacts"]),
    "deploy again": Verb(("deploy", "hvt_demo.tar", "--int8", "--data", "validation")),
    "diagnose": Verb(("diagnose", "--graph", "fp16", "--data", "validation")),
    "sweep": Verb(
        (
            *("sweep", "--models", "hvt_demo", "--data", "validation", "--calib", "calibration"),
            *("--calib-images", 4, "--precisions", "fp32,fp16"),
        ),
        ["artifacts"],
    ),
    "demo": Verb(("demo", "--family", "hvt", "--output", "demo")),
}


def copy_place(template: Path, place: Path, verb: Verb) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)
    if "artifacts" in verb.without:
        shutil.rmtree(place / "artifacts")
    elif verb.without:
        file = place / MODEL / "manifest.json"
        fields = json.loads(file.read_text())
        for key in [key for key in fields["artifacts"] if key.startswith(tuple(verb.without))]:
            shutil.rmtree(place / MODEL / fields["artifacts"].pop(key)["folder"])
        file.write_text(json.dumps(fields))


def list_files(place: Path) -> dict[str, str]:
    """sha256 by path of everything that is kept."""
    files = (path for path in place.rglob("*") if path.is_file())
    found = {path.relative_to(place).as_posix(): path for path in files}
    return {name: hash_file(path) for name, path in found.items() if not _SCRATCH.search(name)}


def find_losses(
    place: Path, before: Mapping[str, str], manifests: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """What was there before a run and is not, or is half there, after it."""
    for name, sha256 in before.items():
        path = place / name
        if name.startswith("artifacts/") and path.name != "notes.txt":
            continue
        if not path.is_file():
            yield f"{name} is gone"
        elif hash_file(path) != sha256 and not _is_whole(path):
            yield f"{name} is half written"
    for file in [*place.glob("*/*/manifest.json"), *place.glob("*/artifacts/*/manifest.json")]:
        name, model = file.relative_to(place).as_posix(), ModelFolder(file.parent)
        try:
            manifest = model.read()
            for key, artifact in manifest.artifacts.items():
                if key != WEIGHTS or (model.path / artifact.folder).is_dir():
                    model.check_files(artifact)  # a bundle has no weights, only their entry
        except Exception as error:
            yield f"{name}: {error}"
            continue
        kept = [key for key in manifests.get(name, ()) if not is_results(key)]
        yield from (f"artifact {key} is gone" for key in kept if key not in manifest.artifacts)
    yield from (f"{name} is gone" for name in manifests if not (place / name).is_file())


def _is_whole(path: Path) -> bool:
    """Whether an output that was replaced is a whole new one."""
    if path.suffix == ".tar":
        scratch = path.with_name("unpacked")
        try:
            unpack(path, scratch, SilentUi())
        except Exception:
            return False
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True
    content = path.read_text()
    if path.suffix == ".json":
        try:
            json.loads(content)
        except ValueError:
            return False
        return True
    return content.rstrip().endswith("</html>") if path.suffix == ".html" else False


def try_verb(template: Path, name: str, every: int) -> dict[str, object]:
    """The record of a verb: how many steps it has, how many were the last, what went wrong.

    `every` is the distance of the steps that are tried.
    """
    verb, place = VERBS[name], template.parent / f"run-{os.getpid()}"
    copy_place(template, place, verb)
    whole = run_in_fork(verb.arguments, place)
    record: dict[str, object] = {"verb": name, "steps": len(whole.steps), "killed": 0}
    if whole.code != verb.exit_code:
        return {**record, "faults": [f"exit {whole.code}: {whole.said}"]}
    wanted = {_HASH.sub("", file) for file in list_files(place)}
    faults: list[str] = []
    ends = range(0, len(whole.steps), every)
    for step in ends:
        where = f"before step {step + 1} of {len(whole.steps)} ({whole.steps[step]})"
        found = _try_step(template, place, verb, step, wanted)
        faults += [f"{where}: {fault}" for fault in found]
    return {**record, "killed": len(ends), "faults": faults}


def _try_step(
    template: Path, place: Path, verb: Verb, step: int, wanted: set[str]
) -> Iterator[str]:
    copy_place(template, place, verb)
    before, manifests = list_files(place), _list_artifacts(place)
    ended = run_in_fork(verb.arguments, place, end_before=step)
    if ended.code != ENDED:
        yield f"was not reached: {ended.code} {ended.said[-300:]}"
        return
    yield from find_losses(place, before, manifests)
    again = run_in_fork(verb.arguments, place)
    if again.code != verb.exit_code:
        yield f"the next run ends with {again.code}: {again.said[-600:]}"
        return
    yield from (f"after the next run {loss}" for loss in find_losses(place, before, manifests))
    there = {_HASH.sub("", file) for file in list_files(place)}
    if there != wanted:
        yield f"after the next run other files: {sorted(there ^ wanted)[:5]}"


def _list_artifacts(place: Path) -> dict[str, list[str]]:
    """The keys of artifacts by manifest."""
    return {
        file.relative_to(place).as_posix(): list(json.loads(file.read_text())["artifacts"])
        for file in place.glob("artifacts/*/manifest.json")
    }
