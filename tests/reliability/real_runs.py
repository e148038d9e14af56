"""Commands in processes of their own, with nothing stubbed but the length of timings: several at
once on one model, and each killed at any moment.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from crash_points import Verb, copy_place, find_losses, list_artifacts, list_files, list_wanted
from place import INT8, MODEL

from hvt_deploy.core.workspace import ModelFolder

_PROGRAM = Path(__file__).parent.parent / "short_timings.py"
_PLAIN = ("--no-smooth-quant", "--no-bias-correction")
_LIMIT_S = 280
_IN_USE = ("is in use by process", "was exported again")
# Those that run at once: each number of them is another choice.
COMMANDS: tuple[tuple[object, ...], ...] = (
    ("quantize", *INT8, *_PLAIN, "--seed", 1),
    ("quantize", *INT8, *_PLAIN, "--seed", 2),
    ("quantize", "--fp16"),
    ("export", "hvt_demo", "--class-names", "names.txt"),
    ("export", "hvt_demo", "--force"),
    ("validate", "--data", "validation", "--limit", 10, "--threads", 1),
    ("validate", "--data", "validation", "--record", "--threads", 1),
    ("build-trt", "--fp16", "--compute-capability", "8.6"),
    ("report", "--format", "markdown", "--output", "report.md"),
    ("diagnose", "--graph", "fp16", "--data", "validation"),
    ("bundle",),
    ("deploy", "mine.tar", "--data", "validation", "--workspace", "artifacts"),
    ("predict", "validation/0"),
    ("inspect", "hvt_demo"),
    ("package", "--triton", "triton"),
)
KILLED: Mapping[str, Verb] = {
    "export": Verb(("export", "hvt_demo"), ["artifacts"]),
    "export --force": Verb(("export", "hvt_demo", "--force", "--preprocess-in-graph")),
    "quantize": Verb(("quantize", *INT8, "--seed", 1)),
    "build-trt": Verb(("build-trt", "--fp16", "--compute-capability", "8.6", "--force")),
    "validate": Verb(("validate", "--data", "validation", "--threads", 1)),
    "bundle": Verb(("bundle",)),
    "deploy": Verb(("deploy", "hvt_demo.tar", "--data", "validation"), ["artifacts"]),
    "diagnose": Verb(("diagnose", "--graph", "fp16", "--data", "validation")),
}


def start(arguments: Sequence[object], place: Path) -> subprocess.Popen[str]:
    """`hvt-deploy ARGUMENTS` in the folder `place`, in a session of its own."""
    here = {"XDG_CACHE_HOME": str(place / "cache"), "TMPDIR": str(place / "tmp"), "CI": ""}
    return subprocess.Popen(
        [sys.executable, str(_PROGRAM), *map(str, arguments)],
        cwd=place,
        env={**os.environ, **here, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def try_at_once(template: Path, number: int, seed: int) -> dict[str, object]:
    """The record of `number` commands at once: each works or says who holds the model, and the
    model is whole afterwards.
    """
    place = template.parent / f"at-once-{os.getpid()}"
    copy_place(template, place, Verb(()))
    (place / "names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    (place / "mine.tar").write_bytes((place / "hvt_demo.tar").read_bytes())  # `bundle` replaces it
    chosen = random.Random(10 * seed + number).sample(COMMANDS, number)
    running = [(command, start(command, place)) for command in chosen]
    faults: list[str] = []
    ends: dict[str, int] = {}
    for command, process in running:
        name = " ".join(map(str, command))
        said = process.communicate(timeout=_LIMIT_S)[1]
        ends[name] = process.returncode
        refused = process.returncode in (2, 3) and any(one in said for one in _IN_USE)
        if "Traceback" in said or (process.returncode and not refused):
            faults.append(f"{name} ended with {process.returncode}: {said[-1500:]}")
    faults += find_losses(place, {}, {})
    folder = ModelFolder(place / MODEL)
    with folder.lock():
        faults += [f"{left.name} is left" for left in folder.path.glob(".staging*")]
    after = start(("predict", "validation/0"), place)
    said = after.communicate(timeout=_LIMIT_S)[1]
    if after.returncode:
        faults.append(f"the next run ends with {after.returncode}: {said[-600:]}")
    return {"at_once": number, "seed": seed, "exit_codes": ends, "faults": faults}


def try_kills(template: Path, name: str, kills: int) -> dict[str, object]:
    """The record of a real run that was killed `kills` times with all its children, each time at
    another moment, and was run again after each.
    """
    verb, place = KILLED[name], template.parent / f"kill-{os.getpid()}"
    moments, faults, killed = random.Random(name), [], 0
    copy_place(template, place, verb)
    began = time.monotonic()
    whole = start(verb.arguments, place)
    said = whole.communicate(timeout=_LIMIT_S)[1]
    takes_s = time.monotonic() - began
    wanted = list_wanted(place)
    if whole.returncode != verb.exit_code:
        faults.append(f"ends with {whole.returncode}: {said[-600:]}")
        kills = 0
    for number in range(kills):
        copy_place(template, place, verb)
        before, manifests = list_files(place), list_artifacts(place)
        moment_s = takes_s * (number + moments.random()) / kills
        process = start(verb.arguments, place)
        try:
            process.communicate(timeout=moment_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
        where = f"killed after {moment_s:.1f} of {takes_s:.1f} s"
        faults += [f"{where}: {loss}" for loss in find_losses(place, before, manifests)]
        again = start(verb.arguments, place)
        said = again.communicate(timeout=_LIMIT_S)[1]
        if again.returncode != verb.exit_code:
            faults.append(f"{where}: the next run ends with {again.returncode}: {said[-600:]}")
            continue
        left = [*find_losses(place, before, manifests), *sorted(list_wanted(place) ^ wanted)]
        faults += [f"{where}, after the next run: {one}" for one in left]
    return {"verb": name, "takes_s": round(takes_s, 1), "killed": killed, "faults": faults}
