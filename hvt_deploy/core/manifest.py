"""The schema of `manifest.json`: an exported model and its artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar, get_args

from hvt_deploy.core.engine_facts import EngineFacts
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.run_config import QuantizationConfig, RunConfig
from hvt_deploy.core.tensors import Signature
from hvt_deploy.core.types import (
    Calibrator,
    Int8Target,
    Precision,
    Preprocessing,
    SubsetName,
)

MANIFEST_SCHEMA = 4

# The keys of artifacts. A graph's key is its precision, except for the INT8 graph in the form that
# ONNX Runtime's CPU kernels are fast on, and for the FP32 graph behind its preprocessing.
GraphKey = Literal["fp32", "fp16", "int8", "int8-fp32", "int8-cpu", "fp32-uint8"]
PIXELS: GraphKey = "fp32-uint8"
WEIGHTS = "pytorch"
# The ONNX file that a model was exported from.
GIVEN = "given"
# What the FP32 graph is compared with; it stays on the machine of the export.
REFERENCES = (WEIGHTS, GIVEN)
CALIBRATION, INT8_CALIBRATION, BUDGET = "calibration", "int8-calibration", "budget"
RECORDED, RESULTS = "recorded-reference", "results"


ENGINE = "engine"  # an engine's key begins so
# Every key but those of engines.
KEYS: tuple[str, ...] = (
    *get_args(GraphKey),
    *REFERENCES,
    *(CALIBRATION, INT8_CALIBRATION, BUDGET, RECORDED, RESULTS),
)


def is_results(key: str) -> bool:
    """Whether an artifact is a validation: `results` is the newest, `results-1` the one before."""
    return key == RESULTS or key.startswith(f"{RESULTS}-")


def engine_key(precision: Precision, tag: str) -> str:
    """The key of an engine; `tag` says where it runs, and with which profiles (`rtx-sm86`)."""
    return f"{ENGINE}-{precision}-{tag}"


@dataclass(frozen=True)
class Parity:
    """The difference between the logits of a reference and a candidate."""

    max_abs: float
    """Largest |difference|; infinite where a logit of one of them is not finite."""
    relative_to_largest: float
    """`max_abs` over the largest |logit| of the reference."""
    sqnr_db: float
    """Signal (reference) to noise (difference) ratio, dB."""
    same_argmax: bool
    """Whether every image gets the same class."""


@dataclass(frozen=True)
class GraphRecipe:
    """The settings that define an FP16 or INT8 graph, in addition to the FP32 graph."""

    measured_ranges: bool
    """Whether activation ranges were measured on images."""
    quantization: QuantizationConfig | None = None
    """Where Q/DQ go; None for FP16."""
    target: Int8Target | None = None
    """The TensorRT library that Q/DQ are placed for; None for FP16 and the CPU variant."""


@dataclass(frozen=True)
class GraphFacts:
    """Of an ONNX graph."""

    precision: Precision
    """The precision that its types and Q/DQ ask for."""
    opset: int
    """Version of the default operator set."""
    nodes: int
    """How many nodes it has."""
    ops: Mapping[str, int] = field(default_factory=dict[str, int])
    """FP32 only: number of nodes by operator."""
    parity: Parity | None = None
    """FP32: against PyTorch, the worst batch; FP16, INT8: against FP32; None: not compared."""
    compared_images: int = 0
    """FP16, INT8: the calibration images that `parity` was measured on; 0: noise, or unknown."""
    recipe: GraphRecipe | None = None
    """How it was made from FP32; None for an FP32 graph."""
    kept_fp32: Mapping[str, str] = field(default_factory=dict[str, str])
    """Nodes that FP16, or the CPU variant, left in FP32, each with the reason."""
    rounding: Parity | None = None
    """FP16 only: FP32 with every tensor rounded as FP16 rounds it, against FP32."""
    faults: tuple[str, ...] = ()
    """CPU variant only: sentences that speak against it. Without any it is served."""
    kind: Literal["graph"] = "graph"
    """Discriminator of the artifact kind in JSON."""


@dataclass(frozen=True)
class CalibrationFacts:
    """Of activation ranges."""

    key: str
    """sha256 of images, graph and preprocessing: with the same key they are not measured again."""
    health: tuple[str, ...] = ()
    """Sentences that speak against the images: few, of few classes, nearly alike."""
    kind: Literal["calibration"] = "calibration"
    """Discriminator of the artifact kind in JSON."""


@dataclass(frozen=True)
class Int8CalibrationFacts:
    """Of thresholds and recovery passes for INT8."""

    key: str
    """sha256 of ranges and settings: with the same key nothing is measured again."""
    effects: Mapping[str, str]
    """By pass: SQNR of the logits before and after, and whether the pass was kept."""
    sqnr_by_role: Mapping[str, Mapping[str, float]]
    """By role and calibrator: SQNR of the products alone, dB."""
    clipping: Mapping[Calibrator, int]
    """How many tensors each calibrator was chosen for."""
    kind: Literal["int8-calibration"] = "int8-calibration"
    """Discriminator of the artifact kind in JSON."""


@dataclass(frozen=True)
class RecordedFacts:
    """Of PyTorch's logits, recorded for machines without PyTorch."""

    images: int
    """How many images have logits."""
    preprocessing: Preprocessing
    """The images were prepared so."""
    limit: int | None
    """`validate --limit` of the recording."""
    seed: int
    """`validate --seed` of the recording."""
    subset: SubsetName | None
    """`validate --subset` of the recording."""
    kind: Literal["recorded-reference"] = "recorded-reference"
    """Discriminator of the artifact kind in JSON."""


Facts: TypeAlias = (
    GraphFacts | CalibrationFacts | Int8CalibrationFacts | EngineFacts | RecordedFacts
)
F = TypeVar("F", GraphFacts, CalibrationFacts, Int8CalibrationFacts, EngineFacts, RecordedFacts)


@dataclass(frozen=True)
class Artifact:
    """One product: the files of one folder."""

    folder: str
    """Name of its folder, which ends with a hash of the files."""
    main: str
    """The file that is opened."""
    files: Mapping[str, str]
    """sha256 by file name."""
    remake: str
    """The command that makes it again."""
    parents: Mapping[str, str]
    """By key: the artifacts it was made from, each with the sha256 of its main file then."""
    facts: Facts | None
    """By kind; None for weights, accuracy budget and results, whose files say everything."""
    tool_versions: Mapping[str, str]
    """Versions of the packages that it was made with."""
    created: str
    """Time in UTC, ISO 8601."""

    @property
    def sha256(self) -> str:
        """The hash of the main file."""
        return self.files[self.main]


@dataclass(frozen=True)
class WeightsRecord:
    """Where the weights came from."""

    source: str
    """official, packaged, trained, file or random."""
    sha256: str
    """Of the checkpoint; "" for random weights."""
    untrained: bool
    """Whether the weights are random, so that accuracy means nothing."""
    path: str = ""
    """The checkpoint."""
    dropped_train_only: tuple[str, ...] = ()
    """Keys that are of use in training only."""
    keys: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of the checkpoint's keys by status: loaded, train-only, recomputed and so on."""
    licence: str = "not stated"
    """Licence of the weights, or "not stated"."""


@dataclass(frozen=True)
class Manifest:
    """All that later verbs need to know of an exported model."""

    slug: str
    """Name of its folder."""
    model: str
    """Name in the registry."""
    exported: str
    """Time in UTC, ISO 8601."""
    signature: Signature
    """Input and output of the graphs."""
    preprocessing: Preprocessing
    """From image files to the input."""
    class_names: tuple[str, ...]
    """By class index."""
    wnids: tuple[str, ...] | None
    """ImageNet's WordNet ids by class index; None for other classes."""
    weights: WeightsRecord
    """Where they came from."""
    config: RunConfig
    """The effective configuration."""
    artifacts: Mapping[str, Artifact]
    """By key."""
    class_names_source: str = ""
    """The file or folder that the class names come from; "" where nobody gave them."""
    code_licence: str = "not stated"
    """Licence of the model's official code, or "not stated"."""
    schema_version: int = MANIFEST_SCHEMA
    """Version of this record's layout."""

    @property
    def licences(self) -> str:
        """The licences of code and weights as a sentence, shown before distribution."""
        return (
            f"Licences: code of {self.model} {self.code_licence}, "
            f"its weights {self.weights.licence}"
        )

    @property
    def reference_key(self) -> str:
        """The key of the reference: PyTorch's weights, or the ONNX file it was exported from."""
        return GIVEN if GIVEN in self.artifacts else WEIGHTS

    @property
    def engines(self) -> Mapping[str, EngineFacts]:
        """The facts of every engine, by key."""
        facts = {key: artifact.facts for key, artifact in self.artifacts.items()}
        return {key: value for key, value in facts.items() if isinstance(value, EngineFacts)}

    def find_fault(self, key: GraphKey) -> str:
        """What speaks against running a graph; empty if nothing does or it is not there."""
        artifact = self.artifacts.get(key)
        facts = artifact.facts if artifact else None
        return " ".join(facts.faults) if isinstance(facts, GraphFacts) else ""

    def facts(self, key: str, kind: type[F]) -> F | None:
        """The facts of artifact `key`, None where there is no such artifact.

        Raises BadInput where they are of another kind.
        """
        artifact = self.artifacts.get(key)
        if artifact is None:
            return None
        if not isinstance(artifact.facts, kind):
            raise BadInput(
                f"The manifest of {self.slug} has other facts for its '{key}' artifact than "
                f"{kind.__name__}.",
                f"Run: {artifact.remake}",
            )
        return artifact.facts
