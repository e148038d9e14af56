"""Every verb, ended hard before each step that changes the disk and after the opening of each file
that it writes, then run again: the verb runs once, and at each step its disk is copied, which is
what a process killed there leaves. What was not yet written is not in the copy, its locks are free.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forks import Step, run_in_fork
from place import MODEL, QUANTIZE, VALIDATE, draw_again

from hvt_deploy.commands.unpack import unpack
from hvt_deploy.core.files import hash_file
from hvt_deploy.core.manifest import WEIGHTS, is_results
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.core.workspace import ModelFolder

_HASH = re.compile(r"-[0-9a-f]{12}(?=/|$)")
# Of no use to anybody later: locks, interrupted validations, the cache, what libraries leave.
_SCRATCH = re.compile(
    r"(^|/)(\.[a-z.]*lock|\.readers|\.answers-[0-9a-f]+(/.*)?|timing-[^/]*\.cache|"
    r"\.[^/]*\.\d+\.new|\.sha256[^/]*)$|^(cache|tmp)(/|$)|(^|/)\.staging-[a-z0-9_]{8}/"
)
_RANDOM = re.compile(r"(?<=\.staging-)[a-z0-9_]{8}|(?<=\.)\d+(?=\.new)")
_BEFORE, _IN_FILE = "before", "in the file of"


@dataclass(frozen=True)
class Verb:
    """A command and what it finds: of the prepared place, the paths in `without` are not there."""

    arguments: Sequence[object]
    without: Sequence[str] = ()
    unnamed: Sequence[str] = ()
    """Artifacts whose folders are there, but not in the manifest."""
    exit_code: int = 0
    before: Callable[[], object] = lambda: None
    """Is called in the process itself."""


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
    "report": Verb(("report", "--format", "html", "--output", "report.html"), before=draw_again),
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
    "clean": Verb(("clean", "--remove"), unnamed=["results", "int8-cpu"]),
    "demo": Verb(("demo", "--family", "hvt", "--output", "demo")),
}


def copy_place(template: Path, place: Path, verb: Verb) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)
    if "artifacts" in verb.without:
        shutil.rmtree(place / "artifacts")
    elif verb.without or verb.unnamed:
        file = place / MODEL / "manifest.json"
        fields = json.loads(file.read_text())
        for key in list(fields["artifacts"]):
            if key.startswith((*verb.without, *verb.unnamed)):
                folder = place / MODEL / fields["artifacts"].pop(key)["folder"]
                if key.startswith(tuple(verb.without)):
                    shutil.rmtree(folder)
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
    """The record of a verb: how often it was ended, and what went wrong.

    `every` is the distance of the steps that are tried. The next run is made once for each state of
    the disk.
    """
    verb, place = VERBS[name], template.parent / f"run-{os.getpid()}"
    copy_place(template, place, verb)
    before, manifests = list_files(place), list_artifacts(place)
    ended, states, faults = place.with_name(f"ended-{os.getpid()}"), set[str](), list[str]()
    left: dict[str, set[str]] = {}
    steps, killed = 0, Counter[str]()

    def end(step: Step, where: str, state: str) -> None:
        killed[where] += 1
        if state in states:
            return
        states.add(state)
        shutil.rmtree(ended, ignore_errors=True)
        shutil.copytree(place, ended, symlinks=True)
        if where == _IN_FILE and step.flags is not None:
            os.close(os.open(ended / step.path, step.flags, 0o600))
        moment = f"{where} step {steps}, {step.event} {step.path}"
        found = list(_judge(ended, verb, before, manifests))
        faults.extend(f"{moment}: {fault}" for fault in found)
        if not found:
            left[moment] = list_wanted(ended)

    def look(step: Step) -> None:
        nonlocal steps
        steps += 1
        if (steps - 1) % every:
            return
        state = _describe_state(place)
        end(step, _BEFORE, state)
        if step.flags is not None:
            end(step, _IN_FILE, state if _is_temporary(step.path) else f"{state} {step.path}")

    whole = run_in_fork(verb.arguments, place, before=verb.before, pause=look)
    if whole.code != verb.exit_code:
        faults.append(f"exit {whole.code}: {whole.said}")
    wanted = list_wanted(place)
    for moment, there in left.items():
        if there != wanted:
            faults.append(f"{moment}: after the next run other files: {sorted(there ^ wanted)[:5]}")
    counts = {"steps": steps, "killed": killed[_BEFORE], "in_files": killed[_IN_FILE]}
    return {"verb": name, **counts, "states": len(states), "faults": faults}


def _is_temporary(name: str) -> bool:
    """Whether only the process that made it uses it: nobody else knows its random name."""
    return name.startswith("tmp/")


def _describe_state(place: Path) -> str:
    """What is on the disk, but for temporary files and the random part of names."""
    state = list[object]()
    for path in place.rglob("*"):
        name = path.relative_to(place).as_posix()
        if not _is_temporary(name):
            found = path.lstat()
            written = None if path.is_dir() else (found.st_ino, found.st_size, found.st_mtime_ns)
            state.append((_RANDOM.sub("", name), written))
    return repr(sorted(state, key=repr))


def _judge(
    place: Path, verb: Verb, before: Mapping[str, str], manifests: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    yield from find_losses(place, before, manifests)
    again = run_in_fork(verb.arguments, place, before=verb.before)
    if again.code != verb.exit_code:
        yield f"the next run ends with {again.code}: {again.said[-600:]}"
        return
    yield from (f"after the next run {loss}" for loss in find_losses(place, before, manifests))


def list_wanted(place: Path) -> set[str]:
    """The files that a run leaves, whatever their hashes."""
    return {_HASH.sub("", file) for file in list_files(place)}


def list_artifacts(place: Path) -> dict[str, list[str]]:
    """The keys of artifacts by manifest."""
    return {
        file.relative_to(place).as_posix(): list(json.loads(file.read_text())["artifacts"])
        for file in place.glob("artifacts/*/manifest.json")
    }
