"""The table of bad inputs: an input channel with a fault class, what it must end with, and why."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from forks import run_in_fork
from place import link_tree

# What a refusal may take.
_MOST_CPU_S = 20.0
_LONGEST_SAID = 6000
# What a run that was refused may leave: locks, and in the cache what is made again.
_MAY_APPEAR = re.compile(
    r"(^|/)(\.[a-z0-9.]*lock|\.readers)$|^cache(/|$)|^tmp/(\.ses|torchinductor_)"
)


@dataclass(frozen=True)
class Kind:
    """A channel with a fault class."""

    channel: str
    fault: str
    arguments: Sequence[object]
    sentence: str
    """A pattern that the message matches."""
    prepare: Callable[[Path], object] = lambda place: None
    """Makes the fault in a copy of the place."""
    code: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    """Is called in the process itself."""
    may_appear: str = "^$"
    """A pattern of what the run may leave."""
    may_change: str = "^$"
    """A pattern of what the run may replace or remove."""
    most_mib: float | None = None
    """Memory that it may take; None: as others of its group."""

    @property
    def name(self) -> str:
        return f"{self.channel}: {self.fault}"


def try_kind(template: Path, name: str) -> dict[str, object]:
    """The record of a kind: its exit code, what was said, what is wrong with that."""
    from table import KINDS, MOST_MIB

    kind = KINDS[name]
    return _try(template, kind, MOST_MIB[name] if kind.most_mib is None else kind.most_mib)


def try_without_bound(template: Path, name: str) -> dict[str, object]:
    """The same with a bound of the product removed."""
    from memory_kinds import BOUNDS
    from table import KINDS

    kind = KINDS[name]
    return _try(template, replace(kind, before=BOUNDS[name]), kind.most_mib or 0)


def _try(template: Path, kind: Kind, most_mib: float) -> dict[str, object]:
    place = template.parent / f"kind-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    link_tree(template, place)
    kind.prepare(place)
    there = list_entries(place)
    ran = run_in_fork(kind.arguments, place, kind.environment, kind.before)
    after = list_entries(place)
    said, faults = " ".join(re.sub("[─╭╮╰╯│━]", " ", ran.said).split()), []
    if ran.code != kind.code:
        faults.append(f"ended with {ran.code}, not {kind.code}")
    if not re.search(kind.sentence, said):
        faults.append(f"does not say {kind.sentence!r}")
    if re.search(r"Traceback|fault in hvt-deploy|weights_only=False|\bError:.*\bError:", said):
        faults.append("says more than one sentence, or blames this program")
    if len(said) > _LONGEST_SAID:
        faults.append(f"says {len(said)} characters")
    if ran.cpu_s > _MOST_CPU_S or ran.peak_mib > most_mib:
        faults.append(f"took {ran.cpu_s:.1f} s and {ran.peak_mib:.0f} MiB")
    changed = [name for name in there if after.get(name) != there[name]]
    lost = [name for name in changed if not re.search(kind.may_change, name)]
    appeared = {name for name in after.keys() - there.keys() if after[name]}  # no empty folder
    allowed = re.compile(f"{_MAY_APPEAR.pattern}|{kind.may_appear}")
    new = [name for name in appeared if not allowed.search(name)]
    if lost:
        faults.append(f"lost or changed {lost[:5]}")
    if new:
        faults.append(f"left {sorted(new)[:5]}")
    shown = said[-1500:] if faults else said[-300:]
    return {
        **{"kind": kind.name, "code": ran.code, "said": shown, "faults": faults},
        **{"cpu_s": round(ran.cpu_s, 2), "peak_mib": round(ran.peak_mib)},
    }


def list_entries(place: Path) -> dict[str, tuple[int, ...]]:
    """Every entry below `place` with what changes when it is written; locks and the cache aside."""
    found: dict[str, tuple[int, ...]] = {}
    for path in place.rglob("*"):
        entry, status = path.relative_to(place).as_posix(), path.lstat()
        if stat.S_ISDIR(status.st_mode):
            found[entry] = ()
        elif not _MAY_APPEAR.search(entry):
            found[entry] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
