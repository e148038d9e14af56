"""Definitions of the terms in reports and in `--help` that are not common knowledge."""

from __future__ import annotations

from collections.abc import Iterable

TERMS = {
    "agreement": "share of images for which a backend and the reference predict the same class.",
    "back to back": (
        "time of many inferences launched one after the other on a GPU, between two CUDA events, "
        "over their number: without the gap between two launches. The latency is of one "
        "synchronised inference."
    ),
    "drop": "top-1 of the reference minus top-1 of the backend, in points; positive is worse.",
    "engine numerics": (
        "the engine's own Q/DQ graph run in ONNX Runtime with FP32 in the rest: "
        "the INT8 accuracy to expect of the engine, measured without a GPU."
    ),
    "group": "the nodes of one stage and one role, for example `2/qkv`.",
    "local error": (
        "error of one module's output when the module gets the reference's input, relative to "
        "the size of the output: error from earlier modules is not counted."
    ),
    "McNemar p": (
        "probability of a difference at least this large if the backend and the reference were "
        "equally accurate (exact paired test)."
    ),
    "passport": (
        "the file `*.engine.json` next to an engine: its hash, the TensorRT version and the GPU "
        "it was built for. An engine that does not match it is not opened."
    ),
    "reformat": "an engine kernel that only moves or converts data.",
    "role": "the function of a node in the model: stem, qkv, proj, fc1, residual add, head ...",
    "SQNR": (
        "signal-to-quantization-noise ratio of the logits in dB: "
        "the power of the reference logits over the power of the error. Higher is better."
    ),
    "traffic": (
        "bytes of activations and weights that an engine's kernels read and write in one "
        "inference, by its own list of layers: a latency proxy that needs no GPU."
    ),
}
REPORT_TERMS = (
    "agreement",
    "back to back",
    "drop",
    "engine numerics",
    "McNemar p",
    "reformat",
    "SQNR",
    "traffic",
)


def define_terms(names: Iterable[str]) -> dict[str, str]:
    """The definitions of `names`, in their order."""
    return {name: TERMS[name] for name in names}
