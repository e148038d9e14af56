"""The rows of a validation before anything ran: what is compared, and how each is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hvt_deploy.core.device_choice import parse_device
from hvt_deploy.core.errors import BadInput, unknown_name
from hvt_deploy.core.manifest import RECORDED, Manifest, RecordedFacts
from hvt_deploy.core.run_config import ValidationConfig
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.evaluation.record import Row
from hvt_deploy.evaluation.reference_logits import RecordedLogits, read_recorded
from hvt_deploy.runtime.base import AnyBackend
from hvt_deploy.runtime.selection import Selection, select_backends
from hvt_deploy.runtime.variant import Variant

EMULATED = "ONNX Runtime emulates FP16 on a CPU: its latency is meaningless and is not measured."
_NOTES = {
    "recorded": "The reference's logits, recorded on another machine.",
    "given": "The ONNX file that the graphs were made from.",
    "deployed": "PyTorch with the network rewritten for inference, as it is exported.",
    "compiled": "The same form through torch.compile.",
    "uint8": "Preprocessing in the graph, from uint8 pixels of any size; speed not measured.",
    "engine-numerics": "The accuracy to expect of the INT8 engine: its graph, FP32 in the rest.",
    "cpu": "The CPU variant: the same INT8 numbers in the form that CPU kernels run fast.",
}
NO_ENGINE = "No engine was built yet: hvt-deploy build-trt"


@dataclass(frozen=True)
class Candidate:
    """A row to fill, and how to open its backend."""

    row: Row
    """The row, without measurements."""
    open: Callable[[], AnyBackend] | None = None
    """None where it is known beforehand that it cannot run; `row.skipped` says why."""
    timed: bool = True
    """Whether its latency is measured."""
    counted: bool = True
    """Whether its accuracy is measured."""
    recorded: RecordedLogits | None = None
    """In place of a reference that cannot run here: its logits of these images."""


def plan_rows(
    folder: ModelFolder, manifest: Manifest, settings: ValidationConfig
) -> tuple[Candidate, ...]:
    """The reference first, then ONNX Runtime, then engines.

    Raises BadInput for a recorded reference that is stale and for an unknown name in --backends,
    MissingEnvironment for a GPU that is not there.
    """
    reference, *others = select_backends(
        folder,
        manifest,
        device=parse_device(settings.device),
        threads=settings.threads,
        allow_cpu_nodes=settings.allow_cpu_nodes,
        timed_batches=settings.latency_batches,
    )
    candidates = [_plan_reference(folder, manifest, reference)]
    candidates += [_plan(manifest, selected) for selected in others]
    if not manifest.engines:
        missing = Variant("trt", "cuda", None)
        row = Row(manifest.model, missing.name, missing, None, skipped=NO_ENGINE)
        candidates.append(Candidate(row))
    return _named(candidates, settings.backends)


def _plan(manifest: Manifest, selected: Selection) -> Candidate:
    variant = selected.variant
    emulated = variant.runtime == "ort" and variant.device == "cpu" and variant.precision == "fp16"
    row = Row(
        model=manifest.model,
        backend=variant.name,
        variant=variant,
        artifact=selected.path.name,
        audit=selected.passport and selected.passport.audit,
        costs=selected.passport.costs if selected.passport else (),
        note=f"{EMULATED if emulated else _NOTES.get(variant.form, '')} {selected.note}".strip(),
        skipped=selected.why_not or None,
    )
    timed = not emulated and variant.form not in ("uint8", "engine-numerics")
    # In float32 the other forms of PyTorch are the reference's function, in float16 they are not.
    counted = variant.form not in ("deployed", "compiled") or variant.precision != "fp32"
    return Candidate(row, selected.open, timed, counted)


def _plan_reference(folder: ModelFolder, manifest: Manifest, selected: Selection) -> Candidate:
    """PyTorch, or where it cannot run the logits that were recorded of it."""
    if selected.open is not None or RECORDED not in manifest.artifacts:
        return _plan(manifest, selected)
    path, artifact = folder.open_artifact(manifest, RECORDED), manifest.artifacts[RECORDED]
    facts = manifest.facts(RECORDED, RecordedFacts)
    if facts is None or facts.preprocessing != manifest.preprocessing:
        why = "The reference was recorded with another preprocessing."
        raise BadInput(why, f"Run: {artifact.remake}")
    variant = Variant(selected.variant.runtime, "cpu", "fp32", "recorded")
    row = Row(manifest.model, variant.name, variant, path.name, note=_NOTES["recorded"])
    return Candidate(row, timed=False, recorded=read_recorded(path))


def _named(candidates: Sequence[Candidate], names: Sequence[str] | None) -> tuple[Candidate, ...]:
    """The rows that --backends names, by runtime or by name, and always the reference."""
    if names is None:
        return tuple(candidates)
    known = {name for one in candidates for name in (one.row.variant.runtime, one.row.backend)}
    for name in names:
        if name not in known:
            raise unknown_name("backend", name, known)
    marked: list[Candidate] = []
    for one in candidates:
        # torch.compile does not compile everything: naming the runtime does not ask for it.
        is_named = one.row.variant.runtime in names and one.row.variant.form != "compiled"
        required = is_named or one.row.backend in names
        if required or one.row.variant.is_reference:
            marked.append(replace(one, row=replace(one.row, required=required)))
    return tuple(marked)
