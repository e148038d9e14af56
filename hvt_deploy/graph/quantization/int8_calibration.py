"""The record of an INT8 calibration: ranges, thresholds, and what the passes change."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.records import parse_json
from hvt_deploy.core.serialization import from_plain, to_plain
from hvt_deploy.core.types import Calibrator
from hvt_deploy.graph.quantization.bias_correction import correct_biases
from hvt_deploy.graph.quantization.logits_judge import Gain
from hvt_deploy.graph.quantization.ranges import Ranges
from hvt_deploy.graph.quantization.smooth_quant import smooth
from hvt_deploy.graph.quantization.weight_rounding import set_levels

_FACTS, _VECTORS = "int8.json", "vectors.npz"


@dataclass(frozen=True)
class Effect:
    """The effect of a calibration pass on the SQNR of the INT8 logits against FP32."""

    name: str
    """The name of the pass."""
    before_db: float
    """SQNR without it."""
    after_db: float
    """SQNR with it."""
    error_db: float
    """Standard error of their difference."""
    images: int
    """On how many images that nothing was found on."""
    kept: bool
    """Whether the calibration uses it."""

    @property
    def loses_db(self) -> float:
        """What the pass costs, below 0 for a gain."""
        return self.before_db - self.after_db

    def __str__(self) -> str:
        """`46.5 -> 47.0 dB (+0.5 ± 0.3 on 64 images), used`; a loss is named as one."""
        gain_db = round(-self.loses_db, 1) + 0.0  # never -0.0
        used = "used although it loses" if gain_db < 0 else "used"
        gain = f"{gain_db:+.1f} ± {self.error_db:.1f} on {self.images} images"
        return (
            f"{self.before_db:.1f} -> {self.after_db:.1f} dB ({gain}), "
            f"{used if self.kept else 'not used'}"
        )


def make_effect(name: str, gain: Gain, *, kept: bool) -> Effect:
    """The record of a pass and what it gains."""
    return Effect(name, gain.before_db, gain.after_db, gain.error_db, gain.images, kept)


@dataclass(frozen=True)
class Int8Calibration:
    """The result of an INT8 calibration."""

    ranges: Ranges
    """Ranges of the prepared graph, clipped at the thresholds."""
    clipping: Mapping[str, Calibrator] = field(default_factory=dict[str, Calibrator])
    """The calibrator that gave the threshold of each tensor."""
    sqnr_by_role: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict[str, Mapping[str, float]]
    )
    """Local SQNR in dB by role and calibrator: products alone, on the activations of FP32."""
    effects: tuple[Effect, ...] = ()
    """The passes that were tried."""
    smoothing: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict[str, NDArray[np.float32]]
    )
    """Scales (C,) of SmoothQuant, by the name of the normalization."""
    shifts: Mapping[str, NDArray[np.float64]] = field(
        default_factory=dict[str, NDArray[np.float64]]
    )
    """Mean errors (C,) that bias correction subtracts, by the name of the product."""
    levels: Mapping[str, NDArray[np.int8]] = field(default_factory=dict[str, NDArray[np.int8]])
    """Weights that are rounded by their inputs, by the name of the product."""
    sqnr_db: float | None = None
    """SQNR of the INT8 logits, on images that nothing was found on; None: not judged."""
    attention: bool = False
    """Whether attention is INT8 in an engine that has a kernel for it."""

    @property
    def changes_weights(self) -> bool:
        """Whether `prepare` needs the numbers of weights."""
        return bool(self.smoothing or self.levels or self.shifts)

    def prepare(self, model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
        """The FP32 graph that Q/DQ are inserted into at `nodes`: smoothed, and of these with
        rounded weights and corrected biases.
        """
        if self.smoothing:
            model = smooth(model, self.smoothing)
        levels = {name: found for name, found in self.levels.items() if name in nodes}
        if levels:
            model = set_levels(model, levels)
        shifts = {name: found for name, found in self.shifts.items() if name in nodes}
        return correct_biases(model, shifts) if shifts else model

    def join(self, later: Int8Calibration) -> Int8Calibration:
        """Both: `later` is of other nodes, in the graph that this one prepares and its ranges."""
        return replace(
            later,
            clipping={**self.clipping, **later.clipping},
            effects=(*self.effects, *later.effects),
            smoothing={**self.smoothing, **later.smoothing},
            shifts={**self.shifts, **later.shifts},
            levels={**self.levels, **later.levels},
            attention=self.attention,
        )

    def write(self, folder: Path) -> None:
        """Write two files into `folder`."""
        facts = {
            "ranges": self.ranges.tensors,
            "clipping": self.clipping,
            "sqnr_by_role": self.sqnr_by_role,
            "effects": to_plain(self.effects),
            "attention": self.attention,
            "sqnr_db": self.sqnr_db,
        }
        (folder / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        vectors: dict[str, NDArray[Any]] = {f"smoothing:{k}": v for k, v in self.smoothing.items()}
        vectors |= {f"shift:{k}": v for k, v in self.shifts.items()}
        vectors |= {f"levels:{k}": v for k, v in self.levels.items()}
        # The type checker takes an array for the argument allow_pickle.
        np.savez(folder / _VECTORS, **vectors)  # pyright: ignore[reportArgumentType]


def read_int8_calibration(folder: Path) -> Int8Calibration:
    """Read the files of `Int8Calibration.write`; raises BadInput if they are missing or invalid."""
    try:
        facts = cast("Any", parse_json((folder / _FACTS).read_bytes()))
        with np.load(folder / _VECTORS, allow_pickle=False) as stored:
            vectors = {name: cast("NDArray[np.float32]", stored[name]) for name in stored.files}
        ranges = {
            str(name): (float(low), float(high)) for name, (low, high) in facts["ranges"].items()
        }
        shifts, levels = _with_prefix(vectors, "shift:"), _with_prefix(vectors, "levels:")
        return Int8Calibration(
            Ranges(ranges),
            facts["clipping"],
            facts["sqnr_by_role"],
            tuple(from_plain(Effect, effect, _FACTS) for effect in facts["effects"]),
            _with_prefix(vectors, "smoothing:"),
            {name: shift.astype(np.float64) for name, shift in shifts.items()},
            {name: level.astype(np.int8) for name, level in levels.items()},
            facts["sqnr_db"],
            bool(facts["attention"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"{folder} does not hold an INT8 calibration: {error}.",
            "Calibrate again: hvt-deploy quantize --calib DIR",
        ) from None


def _with_prefix(
    vectors: Mapping[str, NDArray[np.float32]], prefix: str
) -> dict[str, NDArray[np.float32]]:
    return {k.removeprefix(prefix): v for k, v in vectors.items() if k.startswith(prefix)}
