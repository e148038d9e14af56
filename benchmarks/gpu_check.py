"""`hvt-deploy doctor --verify` from a checkout in which nothing is installed:

    python3 benchmarks/gpu_check.py [SECTION,SECTION...] [MODEL]

MODEL is a name, or the file of an FP32 graph. Results go to $OUT if that is set, else to
benchmarks/results. It ends within six minutes. benchmarks/prepare_device.py collects packages that
the machine lacks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import RESULTS, ROOT
from hvt_deploy.commands.verify_gpu import parse_sections, verify_gpu
from hvt_deploy.core.errors import HvtDeployError
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.evaluation.verification.sections import DEFAULT_MODEL, SECTION_NAMES

LIMIT_S = 345


class _PrintingUi(SilentUi):
    def say(self, message: str) -> None:
        print(message, flush=True)


def main() -> int:
    """Run the sections that are asked for; returns the exit code."""
    asked, model = [*sys.argv[1:], "", ""][:2]
    children = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), children)))
    output = Path(os.environ.get("OUT") or RESULTS)
    try:
        sections = parse_sections(asked) if asked else SECTION_NAMES
        done = verify_gpu(sections, model or DEFAULT_MODEL, output, _PrintingUi(), LIMIT_S)
    except HvtDeployError as error:
        print(error.message, error.hint, file=sys.stderr)
        return error.exit_code
    return done.exit_code


if __name__ == "__main__":
    sys.exit(main())
