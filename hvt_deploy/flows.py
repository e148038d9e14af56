"""What takes several steps: each function only calls steps in order."""

from __future__ import annotations

from hvt_deploy.config import Precision, RunConfig
from hvt_deploy.steps import build_trt as build_step
from hvt_deploy.ui import Ui
from hvt_deploy.workspace import ModelFolder


def build_trt(folder: ModelFolder, config: RunConfig, precision: Precision, ui: Ui) -> build_step.Built:
    """Make the graphs of `precision` where they are not there yet, then build the engine."""
    if precision != "fp32":
        from hvt_deploy.steps.quantize import quantize

        quantize(folder, config, precision, ui)
    return build_step.build_trt(folder, config, precision, ui)
