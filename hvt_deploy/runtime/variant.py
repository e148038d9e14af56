"""One way to run a model, as it travels from the choice of backends to every report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hvt_deploy.core.types import Device, Precision, Runtime

# How an artifact is run, where its precision alone does not say it:
# `deployed` the deployed form in PyTorch, `compiled` the same through torch.compile, `cpu` an INT8
# graph made for CPU kernels,
# `engine-numerics` the Q/DQ graph of an INT8 engine with FP32 in the rest, `uint8` a graph with its
# preprocessing,
# `given` the ONNX file that a model was exported from, `recorded` logits kept from another machine.
Form = Literal[
    "plain", "deployed", "compiled", "cpu", "engine-numerics", "uint8", "given", "recorded"
]


@dataclass(frozen=True)
class Variant:
    """Which runtime runs which form of the model, where and in which precision."""

    runtime: Runtime
    """The library that runs the model."""
    device: Device
    """Where it runs."""
    precision: Precision | None
    """Of the weights and activations; None for an engine that was not built yet."""
    form: Form = "plain"
    """Which of the model's forms: see `Form`."""
    target: str = ""
    """For engines: library, compute capabilities and profiles other than 1,8,32: `rtx-sm86`."""

    @property
    def is_reference(self) -> bool:
        """Whether it is what the graphs are compared with: PyTorch in one of its forms, or the
        ONNX file that was given.
        """
        return self.runtime == "pytorch" or self.form in ("given", "recorded")

    @property
    def name(self) -> str:
        """Display name in reports: `ort int8 cpu`, `trt fp16 rtx-sm86`."""
        match self.form:
            case "engine-numerics":
                return "int8 engine numerics"
            case "recorded":
                suffix = "(recorded)"
            case "plain":
                suffix = self.target
            case form:
                suffix = form
        return " ".join(filter(None, (self.runtime, self.precision, suffix)))
