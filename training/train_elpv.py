"""Train the models of solar cells that are not trained yet, and record their accuracy.

    pip install 'hvt-deploy[export,cpu,elpv]'
    python training/train_elpv.py --models fdvit_elpv,hvt_elpv

Seeded, at most eight minutes each on two cores. Trains on the `train` split alone and looks at
`test` once, at the end. The weights stay in the cache, for the data's licence (CC BY-NC-SA) is not
that of this repository; benchmarks/results/elpv_training.json gets their hashes and what was
measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hvt_deploy.cli.output import open_ui
from hvt_deploy.commands.train_demo import train_on_elpv
from hvt_deploy.data.elpv import ELPV_NOTICE, write_elpv

MODELS = ("fdvit_elpv", "faster_vit_elpv", "dfvt_elpv", "hvt_elpv")
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "elpv_training.json"


def main() -> None:
    """Train, measure once, record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    ui = open_ui(False)
    ui.say(ELPV_NOTICE)
    records = json.loads(options.output.read_text()) if options.output.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        folders = write_elpv(Path(folder) / "elpv")
        for model in options.models.split(","):
            records[model] = json.loads(train_on_elpv(model, folders, ui).read_text())
            ordered = {name: records[name] for name in MODELS if name in records}
            options.output.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main()
