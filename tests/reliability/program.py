"""The program that tries things in forks of itself; it starts no thread.

`program.py FOLDER EXPORTS` prepares a place in FOLDER, then reads a request per line, the name of
one of its `_REQUESTS` and the arguments as a JSON list, and prints the record.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from command_line import run
from crash_points import try_verb
from exports import prove_parity_here
from kinds import try_kind, try_without_bound
from place import MODEL, prepare, shorten_computations, shorten_exports
from real_runs import try_at_once, try_kills

from hvt_deploy.core.workspace import ModelFolder

_REQUESTS: dict[str, Callable[..., dict[str, object]]] = {
    "kind": try_kind,
    "without bound": try_without_bound,
    "verb": try_verb,
    "at once": try_at_once,
    "kills": try_kills,
}


def main() -> None:
    folder = Path(sys.argv[1])
    template = folder / "template"
    prove_parity_here()
    shorten_computations()
    import scipy.stats  # noqa: F401
    import sklearn.datasets  # noqa: F401

    for verb in (
        ("export", "hvt_demo", "--force", "--weights", "missing"),
        ("validate", "--data", "no"),
    ):
        run(*verb, cwd=folder)  # imports what every fork would import once more
    gc.freeze()  # a fork that looks for garbage would copy all memory that it shares
    if not template.is_dir():
        if (process := os.fork()) == 0:
            prepare(template, Path(sys.argv[2]))
            os._exit(0)
        if os.waitpid(process, 0)[1]:
            sys.exit("the place could not be prepared")
    shorten_exports(ModelFolder(template / MODEL))
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        sys.exit(f"{threads} threads: a fork would have the locks of those that it lacks")
    for line in sys.stdin:
        what, *values = json.loads(line)
        began_s = _cpu_s()
        record = _REQUESTS[what](template, *values)
        print(json.dumps({**record, "spent_cpu_s": round(_cpu_s() - began_s, 1)}), flush=True)
    os._exit(0)  # without a second of taking apart what was imported


def _cpu_s() -> float:
    """Processor time of this process and of all that it started."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


if __name__ == "__main__":
    main()
