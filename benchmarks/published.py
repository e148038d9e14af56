"""The papers' tables, measured: python benchmarks/published.py --models 'fdvit_*,faster_vit_0_224'
--data imagenet/val

With official weights (downloaded, or NAME.pth and the like in --weights-dir) and a benchmark set on
disk, validates every model in PyTorch and ONNX Runtime under its paper's preprocessing and sets the
published top-1 and top-5 next to the measured ones. `--subset imagenet-a|imagenet-r|imagenet-v2`
does the robustness table of FasterViT (crop 0.875). A model that fails is reported and the others
go on. Writes OUTPUT.json and OUTPUT.md after every model. Ends with 1 if a measured top-1 is not
the published one: outside the measured interval by more than 0.1 point, or a model failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import RESULTS, ROOT, format_table, write_record
from hvt_deploy.commands.config import config_of
from hvt_deploy.commands.export import export
from hvt_deploy.commands.validate import validate
from hvt_deploy.core.errors import BadInput, HvtDeployError
from hvt_deploy.core.run_config import RunConfig, with_flags
from hvt_deploy.core.serialization import to_plain
from hvt_deploy.core.types import SUBSETS, SubsetName
from hvt_deploy.core.ui import Ui
from hvt_deploy.core.workspace import open_folder
from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.report.console import TerminalUi, open_console
from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.models.registry import get_spec, list_specs
from hvt_deploy.models.spec import ModelSpec

# Top-1 and top-5 of FasterViT's robustness table, by model and set.
ROBUSTNESS: Mapping[str, Mapping[str, Mapping[str, float]]] = json.loads(
    (ROOT / "benchmarks" / "published_robustness.json").read_text(encoding="utf-8")
)
ROBUSTNESS_CROP = 0.875
# Papers round to two digits, and other library versions decode a few pixels differently.
TOLERANCE = 0.1 + 1e-9


@dataclass(frozen=True)
class Line:
    """One model on one backend; accuracies in percent.

    Attributes:
        model: name of the model.
        backend: the row of the validation.
        images: number of images that were measured.
        published_top1: top-1 of the paper.
        published_top5: top-5 of the paper.
        top1: measured top-1 with its interval.
        top5: measured top-5 with its interval.
        untrained: whether the weights are random.
        failed: the error that ended the measurement, "" where none did.
    """

    model: str
    backend: str
    images: int = 0
    published_top1: float | None = None
    published_top5: float | None = None
    top1: Interval | None = None
    top5: Interval | None = None
    untrained: bool = False
    failed: str = ""

    @property
    def difference(self) -> float | None:
        """Measured minus published top-1 in points; None where one of them does not exist."""
        if self.top1 is None or self.published_top1 is None or self.untrained:
            return None
        return self.top1.estimate - self.published_top1

    @property
    def agrees(self) -> bool:
        """Whether the published top-1 lies in the measured interval, widened by the tolerance."""
        if self.failed:
            return False
        if self.difference is None or self.top1 is None or self.published_top1 is None:
            return True
        return self.top1.low - TOLERANCE <= self.published_top1 <= self.top1.high + TOLERANCE

    def cells(self) -> tuple[str, ...]:
        """The line as text, in the order of COLUMNS."""
        if self.failed:
            return (self.model, self.backend, "", "", "", f"FAILED: {self.failed}")
        verdict = f"{self.difference:+.2f}" if self.difference is not None else ""
        if self.untrained:
            verdict = "untrained, not comparable"
        elif not self.agrees:
            verdict += ", NOT the published one"
        return (
            self.model,
            self.backend,
            f"{self.images:,}",
            f"{_percent(self.published_top1)} / {_percent(self.published_top5)}",
            f"{_interval(self.top1)} / {_interval(self.top5)}",
            verdict,
        )


COLUMNS = ("model", "backend", "images", "published top-1 / top-5", "measured", "difference")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value}"


def _interval(value: Interval | None) -> str:
    return "–" if value is None else f"{value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}]"


def published(spec: ModelSpec, subset: SubsetName | None) -> tuple[float | None, float | None]:
    """(top-1, top-5) of the paper on this set, in percent."""
    if subset is not None:
        figures = ROBUSTNESS.get(spec.name, {}).get(subset, {})
        return figures.get("top1"), figures.get("top5")
    return (spec.published.top1, spec.published.top5) if spec.published else (None, None)


def configured(name: str, subset: SubsetName | None, weights: str) -> RunConfig:
    """The paper's own evaluation of a model."""
    flags: dict[str, object] = {
        "export.weights": weights,
        "validation.subset": subset,
        "validation.backends": ["ort"],
    }
    if subset is not None:
        flags["preprocessing.crop_pct"] = ROBUSTNESS_CROP
    return with_flags(config_of(name), flags)


def weights_of(name: str, folder: Path | None) -> str:
    """The file `NAME.*` in a folder of checkpoints, or `auto` without a folder."""
    if folder is None:
        return "auto"
    found = sorted(path for path in folder.glob(f"{name}.*") if path.is_file())
    if not found:
        raise BadInput(
            f"{folder} holds no checkpoint of {name}.",
            f"Put it there as {name}.pth or {name}.safetensors.",
        )
    return str(found[0])


def measure_model(
    name: str, options: argparse.Namespace, subset: SubsetName | None, ui: Ui
) -> list[Line]:
    """Export and validate one model; a failure becomes a line."""
    try:
        config = configured(name, subset, weights_of(name, options.weights_dir))
        folder = open_folder(options.workspace, f"{name}-{subset}" if subset else name)
        export(folder, config, None, ui)
        results = validate(folder, config, options.data, None, ui).results
    except HvtDeployError as error:
        return [Line(name, "–", failed=error.message)]
    return read_lines(name, results, published(get_spec(name), subset))


def read_lines(
    name: str, results: Results, figures: tuple[float | None, float | None]
) -> list[Line]:
    """A line for every backend that ran."""
    return [
        Line(
            name,
            row.backend,
            row.images,
            figures[0],
            figures[1],
            row.accuracy.top1,
            row.accuracy.top5,
            results.untrained,
        )
        for row in results.rows
        if row.accuracy is not None
    ]


def write_results(output: Path, lines: Sequence[Line], command: str) -> None:
    """OUTPUT.json and OUTPUT.md."""
    record = {
        "command": command,
        "lines": [to_plain(line) | {"difference": line.difference} for line in lines],
    }
    write_record(output.with_suffix(".json"), record)
    text = "\n".join(format_table(COLUMNS, (line.cells() for line in lines)))
    output.with_suffix(".md").write_text(
        f"# Published and measured\n\n`{command}`\n\n{text}\n", encoding="utf-8"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the models that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", required=True, help="names or patterns, separated by commas")
    parser.add_argument("--data", type=Path, required=True, help="the benchmark set")
    parser.add_argument(
        "--subset", choices=SUBSETS, help="which benchmark set it is, if not ImageNet's own"
    )
    parser.add_argument(
        "--weights-dir", type=Path, help="checkpoints as NAME.pth; without it they are downloaded"
    )
    parser.add_argument("--workspace", type=Path, default=Path("artifacts"))
    parser.add_argument("--output", type=Path, default=RESULTS / "published")
    options = parser.parse_args(arguments)
    subset: SubsetName | None = options.subset
    patterns = options.models.split(",")
    names = [
        spec.name
        for spec in list_specs()
        if any(fnmatch(spec.name, pattern) for pattern in patterns)
    ]
    if not names:
        parser.error(f"no model is called {options.models}")
    ui = TerminalUi(open_console(stderr=True))
    command = f"python benchmarks/published.py --models {options.models} --data {options.data.name}"
    lines: list[Line] = []
    for i, name in enumerate(names, start=1):
        ui.say(f"{i}/{len(names)} {name}")
        lines += measure_model(name, options, subset, ui)
        write_results(options.output, lines, command + (f" --subset {subset}" if subset else ""))
    for row in (COLUMNS, *(line.cells() for line in lines)):
        print(" | ".join(row))
    return 0 if all(line.agrees for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
