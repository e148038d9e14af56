"""README's first two commands in a fresh copy of the checkout: what they download, the disk they
need, how long they take.

Downloads are the bytes that the machine's network interfaces received meanwhile, so nothing else
should download then. Without `--test` the tests are not run; what was measured of them before stays
in the record.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from records import RESULTS, ROOT, Record, describe_commit, describe_conditions, write_record

from hvt_deploy.core.environment import cpu_count

RECORD = RESULTS / "first_commands.json"


def run_target(checkout: Path, target: str, cache: Path) -> Record:
    """`make TARGET`: seconds by the clock, and seconds of processors.

    Raises CalledProcessError where it fails.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    received = read_received_bytes()
    removed = ("PYTHONPATH", "PIP_FIND_LINKS", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {
        "PIP_CACHE_DIR": str(cache),
        "PIP_CONFIG_FILE": os.devnull,  # which may name folders that hold packages
        "XDG_CACHE_HOME": str(cache.parent / "user"),
    }
    subprocess.run(["make", target], cwd=checkout, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(time.monotonic() - started),
        "download_bytes": read_received_bytes() - received,
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
    }


def read_received_bytes() -> int:
    """The bytes that came from other machines since this one started."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    counts = {
        name.strip(): rest.split() for name, _, rest in (line.partition(":") for line in lines)
    }
    return sum(int(count[0]) for name, count in counts.items() if name != "lo")


def count_bytes(folder: Path) -> int:
    """The bytes of the files in a folder, as they lie on the disk."""
    files = (path.lstat() for path in folder.rglob("*") if not path.is_dir())
    return sum(512 * file.st_blocks for file in files)


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", action="store_true", help="Also run `make test`.")
    arguments = parser.parse_args()
    earlier: Record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    record: Record = {
        **describe_conditions("first_commands.py"),
        "cores": cpu_count(),
        "commit": describe_commit().removesuffix("-dirty"),  # which is what a clone has
        "load_before": round(os.getloadavg()[0], 1),
    }
    with tempfile.TemporaryDirectory() as temporary:
        checkout, cache = Path(temporary) / "checkout", Path(temporary) / "pip"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
        record["install"] = run_target(checkout, ".venv/.ready", cache)
        record["install"]["disk_bytes"] = count_bytes(checkout / ".venv")
        record["demo"] = run_target(checkout, "demo", cache)
        if arguments.test:
            record["test"] = run_target(checkout, "test", cache)
        elif "test" in earlier:
            record["test"] = earlier["test"]
    write_record(RECORD, record)


if __name__ == "__main__":
    main()
