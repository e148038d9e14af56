"""Train a demo model on scikit-learn's handwritten digits: the checkpoint that `hvt-deploy demo`
deploys.

    python training/train_digits.py --model fdvit_demo

Seeded, a few minutes on two cores. Trains on the `train` split alone and looks at `validation`
once, at the end. Writes hvt_deploy/data/assets/<model>.safetensors and, beside this script, what
was measured.
"""

# ruff: noqa: T201 - a script that prints its record

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hvt_deploy.cli.output import open_ui
from hvt_deploy.commands.train_demo import TrainingData, train_demo
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.data.class_names import number_classes
from hvt_deploy.data.digits import write_digits
from hvt_deploy.models.training_recipe import DIGITS_AUGMENTATION, TrainingRecipe

MODELS = ("fdvit_demo", "faster_vit_demo", "dfvt_demo", "hvt_demo")
HERE = Path(__file__).parent
DATA = HERE.parent / "hvt_deploy" / "data" / "assets"


def main() -> None:
    """Train, measure once, write the checkpoint and the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoint", type=Path, help="where to write it, if not into the package"
    )
    parser.add_argument("--record", type=Path, help="where to write it, if not beside this script")
    options = parser.parse_args()
    checkpoint = options.checkpoint or DATA / f"{options.model}.safetensors"
    recipe = TrainingRecipe(DIGITS_AUGMENTATION, options.epochs, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        digits = write_digits(Path(folder) / "digits")
        data = TrainingData(digits.train, digits.validation, number_classes(10))
        record = train_demo(options.model, data, recipe, checkpoint, threads=2, ui=open_ui(False))
    text = json.dumps(to_plain(record), indent=1)
    (options.record or HERE / f"{options.model}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
