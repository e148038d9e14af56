"""Environments: full, read-only, missing or odd folders, limits, packages that are not there."""

from __future__ import annotations

import fcntl
import importlib.abc
import importlib.util
import os
import resource
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from kinds import Kind
from place import MODEL

_NOBODY = 65534
_PREDICT = ("predict", "validation/0/0.png")
_VERBS: dict[str, tuple[object, ...]] = {
    "export": ("export", "hvt_demo", "--force"),
    "quantize": ("quantize", "--int8", "--calib", "calibration", "--calib-images", 5),
    "build-trt": ("build-trt", "--fp16"),
    "validate": ("validate", "--data", "validation"),
    "report": ("report", "--format", "markdown", "--output", "report.html"),
    "package": ("package", "--triton", "new"),
    "bundle": ("bundle", "--output", "new.tar"),
    "deploy": ("deploy", "hvt_demo.tar", "--data", "validation", "--workspace", "new"),
    "config": ("config", "--all", "new"),
    "sweep": ("sweep", "--models", "hvt_demo", "--data", "validation", "--precisions", "fp32"),
    "demo": ("demo", "--output", "new"),
}


class _Missing(importlib.abc.MetaPathFinder):
    """Finds no package of these names."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _uninstall(*names: str) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] in names]:
        del sys.modules[module]
    sys.meta_path.insert(0, _Missing(set(names)))
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: (
        None if name.partition(".")[0] in names else found(name, package)
    )


def _limit_files(size: int) -> None:
    """A disk on which a file cannot grow: as a full one, or a quota, but for one process."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _limit(which: int, value: int) -> None:
    resource.setrlimit(which, (value, value))


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)


def _readable(place: Path) -> None:
    """By everybody, and to be left alone: the trial's own folder is the root's."""
    for path in (place, *place.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o755)


def _hide(name: str, place: Path) -> None:
    """A file that only its owner may read; a copy, so that others of the place stay."""
    _readable(place)
    path = next(iter(place.glob(name)))
    if path.is_dir():
        path.chmod(0o700)
        return
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o600)


def _as_nobody_writes(place: Path) -> None:
    """All but the workspace may be written by everybody."""
    _readable(place)
    for path in (place, place / "tmp"):
        path.chmod(0o777)


def _hold(place: Path) -> None:
    """A lock that this process, which goes on, keeps until the next trial."""
    global _held  # noqa: PLW0603
    lock = place / MODEL / ".lock"
    lock.unlink(missing_ok=True)  # the other trials have the same file
    _held = lock.open("a+")
    _held.truncate(0)
    _held.write("process 1 (hvt-deploy quantize) since 2026-01-01")
    _held.flush()
    fcntl.flock(_held, fcntl.LOCK_EX)


_held = None


def _cache_is_file(place: Path) -> None:
    (place / "cache").write_text("x")


_PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("torch", "export", r"hvt-deploy\[export\]"),
    ("onnxruntime", "export", r"hvt-deploy\[cpu\]"),
    ("onnxruntime", "quantize", r"hvt-deploy\[cpu\]"),
    ("safetensors", "export", r"hvt-deploy\[export\]"),
    ("tensorrt_rtx", "build-trt", "TensorRT"),
    ("sklearn", "demo", r"hvt-deploy\[demo\]"),
)
_COMPLETIONS: dict[str, dict[str, str]] = {
    "without words": {},
    "beyond its words": {"COMP_WORDS": "hvt-deploy\nexport", "COMP_CWORD": "999"},
    "at no number": {"COMP_WORDS": "hvt-deploy", "COMP_CWORD": "x"},
}
_FULL = "File too large|No space left|Could not write|cannot be used|system refused"
# Each starts with a variable of the environment that is wrong.
_VARIABLES: tuple[tuple[str, dict[str, str], str], ...] = (
    ("TMPDIR: missing", {"TMPDIR": "/none/at/all"}, ""),
    ("TMPDIR: empty", {"TMPDIR": ""}, ""),
    ("HOME: missing", {"HOME": "/none", "XDG_CACHE_HOME": ""}, ""),
    ("XDG_CACHE_HOME: relative", {"XDG_CACHE_HOME": "here"}, ""),
    ("OMP_NUM_THREADS: no number", {"OMP_NUM_THREADS": "many"}, ""),
    ("OMP_NUM_THREADS: zero", {"OMP_NUM_THREADS": "0"}, ""),
    ("OMP_NUM_THREADS: negative", {"OMP_NUM_THREADS": "-4"}, ""),
    ("OMP_NUM_THREADS: a list", {"OMP_NUM_THREADS": "4,2"}, ""),
    ("OMP_NUM_THREADS: too many", {"OMP_NUM_THREADS": "100000"}, ""),
    ("CUDA_VISIBLE_DEVICES: nonsense", {"CUDA_VISIBLE_DEVICES": "nonsense"}, ""),
    ("COLUMNS: no number", {"COLUMNS": "wide"}, ""),
    ("COLUMNS: zero", {"COLUMNS": "0"}, ""),
    ("COLUMNS: one", {"COLUMNS": "1"}, ""),
    ("COLUMNS: a billion", {"COLUMNS": "1000000000"}, ""),
    ("HF_ENDPOINT: nonsense", {"HF_ENDPOINT": "nonsense://"}, ""),
    ("PYTHONWARNINGS: error", {"PYTHONWARNINGS": "error"}, ""),
    ("TZ: a path", {"TZ": "../../etc/passwd"}, ""),
    ("PATH: empty", {"PATH": ""}, ""),
    ("OMP_NUM_THREADS: a fraction", {"OMP_NUM_THREADS": "1.5"}, ""),
    ("TMPDIR: a file", {"TMPDIR": "notes.txt"}, ""),
    ("TERM: dumb", {"TERM": "dumb"}, ""),
    ("TERM: unknown", {"TERM": "nonsense", "FORCE_COLOR": "1"}, ""),
    ("NO_COLOR", {"NO_COLOR": "1"}, ""),
    ("LANG: unknown", {"LANG": "xx_YY.nonsense", "LC_ALL": "xx_YY"}, ""),
    ("TZ: unknown", {"TZ": "Nowhere/Nothing"}, ""),
    ("CI: of a machine", {"CI": "true"}, ""),
    (
        "http_proxy: of nobody",
        {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://[::"},
        "",
    ),
)


def _list_kinds() -> Iterator[Kind]:
    for fault, variables, sentence in _VARIABLES:  # none of them stops a command
        yield Kind("environment", fault, _PREDICT, sentence, code=0, environment=variables)
    for fault, variables in _COMPLETIONS.items():
        environment = {"_HVT_DEPLOY_COMPLETE": "complete_bash", **variables}
        yield Kind("completion", fault, (), "which word to complete", environment=environment)
    for package, verb, sentence in _PACKAGES:
        before = partial(_uninstall, package)
        name = f"{package} is not installed, {verb}"
        yield Kind("environment", name, _VERBS[verb], sentence, code=3, before=before)
    for verb, arguments in _VERBS.items():
        before = partial(_limit_files, 100 if verb == "config" else 3000)
        yield Kind(
            *("environment", f"a full disk, {verb}", arguments, _FULL),
            code=3,
            before=before,
            may_appear="^(new/digits|sweep)/",  # whole files, used or replaced by the next run
        )
        if verb == "demo":
            continue  # the libraries that it imports may be in a home
        yield Kind(
            *("environment", f"a folder that may not be written, {verb}", arguments),
            *("Permission denied",),
            _readable,
            code=3,
            before=_become_nobody,
        )
    for name, (hidden, arguments, code, sentence) in _HIDDEN.items():
        yield Kind(
            *("environment", f"may not be read: {name}", arguments, sentence),
            partial(_hide, hidden),
            code=code,
            before=_become_nobody,
        )
    for verb in ("export", "quantize", "build-trt"):
        yield Kind(
            *("environment", f"a model that another process writes, {verb}", _VERBS[verb]),
            *("is in use by process 1", _hold),
            code=3,
        )
    yield from _list_places()
    yield from _list_limits()


_HIDDEN: dict[str, tuple[str, tuple[object, ...], int, str]] = {
    "a file of class names": (
        "notes.txt",
        ("export", "hvt_demo", "--force", "--class-names", "notes.txt"),
        2,
        "not readable",
    ),
    "a file of labels": (
        "notes.txt",
        ("validate", "--data", "validation", "--labels", "notes.txt"),
        2,
        "not readable",
    ),
    "the manifest": (f"{MODEL}/manifest.json", _PREDICT, 3, "Permission denied"),
    "the graph": (f"{MODEL}/fp32-*/*.onnx", _PREDICT, 3, "Permission denied"),
    "an image": ("validation/0/0.png", _PREDICT, 2, "not readable"),
    "a class folder": ("validation/3", ("predict", "validation"), 2, "Permission denied"),
    "a bundle": (
        "hvt_demo.tar",
        ("deploy", "hvt_demo.tar", "--workspace", "new"),
        2,
        "not readable",
    ),
    "a configuration": (
        "configs/hvt_demo.yaml",
        ("validate", "--config", "configs/hvt_demo.yaml", "--data", "validation"),
        2,
        "not readable",
    ),
}


def _list_places() -> Iterator[Kind]:
    yield Kind(
        *("environment", "a cache that is a file", ("export", "hvt_s_1", "--weights", "official")),
        *("The cache cannot be used|cannot be reached", _cache_is_file),
        code=3,
    )
    yield Kind(
        *(
            "environment",
            "a host that cannot be reached",
            ("export", "fdvit_ti", "--weights", "official"),
        ),
        "cannot be reached",
        code=3,
        environment={"https_proxy": "http://127.0.0.1:1"},
    )
    for verb in ("bundle", "report", "package"):
        target = {"bundle": "--output", "report": "--output", "package": "--triton"}[verb]
        yield Kind(
            "environment",
            f"a place in /proc, {verb}",
            (verb, target, "/proc/none/x"),
            "/proc",
            code=2,
        )


def _list_limits() -> Iterator[Kind]:
    for files in (64, 24):
        yield Kind(
            *("environment", f"{files} open files", _PREDICT, ""),
            code=0,
            before=partial(_limit, resource.RLIMIT_NOFILE, files),
        )
    yield Kind(
        *("environment", "no core files", _PREDICT, ""),
        code=0,
        before=partial(_limit, resource.RLIMIT_CORE, 0),
    )
    yield Kind(
        "environment", "a umask of nothing", _PREDICT, "", code=0, before=partial(os.umask, 0o777)
    )
    yield Kind(
        "environment", "the lowest priority", _PREDICT, "", code=0, before=partial(os.nice, 19)
    )
    yield Kind(
        "environment", "a closed standard input", _PREDICT, "", code=0, before=partial(os.close, 0)
    )


KINDS = tuple(_list_kinds())
