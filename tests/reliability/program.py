"""The program that tries things in forks of itself; it starts no thread.

`program.py FOLDER EXPORTS` prepares a place in FOLDER, then reads a request per line and prints its
record: `verb NAME EVERY` or `kind NAME`, as JSON lists.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from command_line import run
from crash_points import try_verb
from exports import prove_parity_here
from kinds import try_kind
from place import MODEL, prepare, shorten_builds, shorten_exports

from hvt_deploy.core.workspace import ModelFolder


def main() -> None:
    template = Path(sys.argv[1]) / "template"
    if not template.is_dir():
        if (process := os.fork()) == 0:
            prepare(template, Path(sys.argv[2]))
            os._exit(0)
        if os.waitpid(process, 0)[1]:
            sys.exit("the place could not be prepared")
    prove_parity_here()
    shorten_builds()
    shorten_exports(ModelFolder(template / MODEL))
    for verb in (
        ("export", "hvt_demo", "--force", "--weights", "missing"),
        ("validate", "--data", "no"),
    ):
        run(*verb, cwd=template)  # imports what every fork would import once more
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        sys.exit(f"{threads} threads: a fork would have the locks of those that it lacks")
    for line in sys.stdin:
        what, *values = json.loads(line)
        record = {"verb": try_verb, "kind": try_kind}[what](template, *values)
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
