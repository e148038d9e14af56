"""The validations of a model that are kept: the newest and some before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hvt_deploy.commands.recorded_names import names_of, with_names
from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.manifest import (
    RECORDED,
    RESULTS,
    Manifest,
    RecordedFacts,
    is_results,
)
from hvt_deploy.core.run_config import RunConfig
from hvt_deploy.core.workspace import ModelFolder
from hvt_deploy.data.folders import Sample
from hvt_deploy.data.sampling import hash_contents
from hvt_deploy.evaluation.image_answers import ANSWERS_FILE, ImageAnswers
from hvt_deploy.evaluation.record import Results
from hvt_deploy.evaluation.reference_logits import RecordedLogits
from hvt_deploy.evaluation.report.html import render_html
from hvt_deploy.evaluation.report.markdown import render_markdown

# Without --keep.
KEPT = 10


def keep_results(
    folder: ModelFolder, manifest: Manifest, results: Results, answers: ImageAnswers, keep: int
) -> Path:
    """Make `results` the newest of at most `keep` validations; the folder of its files."""
    with folder.staging() as staged:
        results.write(staged / "results.json")
        replace(answers, reference_logits=None).write(staged / ANSWERS_FILE)
        (staged / "report.md").write_text(render_markdown(results), encoding="utf-8")
        (staged / "report.html").write_text(render_html(results), encoding="utf-8")
        remake = f"hvt-deploy validate {folder.slug} --data {results.data.path}"
        updated = folder.add(_make_room(manifest, keep), RESULTS, staged, "results.json", remake)
    return folder.file(updated.artifacts[RESULTS]).parent


def read_again(folder: ModelFolder, validated: Manifest) -> Manifest:
    """The manifest as other commands have left it while this one ran, with the class names that it
    learned.

    Raises BadInput if the model was exported again: the results are of another one.
    """
    current = folder.read()
    for key in (validated.reference_key, "fp32"):
        artifact = current.artifacts.get(key)
        if artifact is None or artifact.sha256 != validated.artifacts[key].sha256:
            raise BadInput(
                f"{folder.slug} was exported again while it was validated: the results are of "
                "another model and were not kept.",
                "Validate again.",
            )
    return with_names(current, names_of(validated)) if names_of(current).are_numbers else current


def keep_reference(
    folder: ModelFolder,
    manifest: Manifest,
    config: RunConfig,
    data: Path,
    samples: Sequence[Sample],
    answers: ImageAnswers,
) -> Manifest:
    """Make the reference's logits an artifact; `samples` are the images by index."""
    logits = answers.reference_logits
    if logits is None:
        raise ValueError("The reference's logits were not kept.")
    hashes = hash_contents([samples[int(i)].path for i in answers.indices], cpu_count())
    recorded = RecordedLogits(dict(zip(hashes, logits, strict=True)))
    with folder.staging() as staged:
        recorded.write(staged / "reference.npz")
        settings = config.validation
        return folder.add(
            manifest,
            RECORDED,
            staged,
            "reference.npz",
            f"hvt-deploy validate {folder.slug} --data {data} --record",
            facts=RecordedFacts(
                len(recorded.logits),
                manifest.preprocessing,
                settings.limit,
                settings.seed,
                settings.subset,
            ),
            parents=(manifest.reference_key,),
        )


def _make_room(manifest: Manifest, keep: int) -> Manifest:
    """The manifest without a newest validation: `results` becomes `results-1`, and so on."""
    keys = sorted(filter(is_results, manifest.artifacts), key=lambda key: (len(key), key))
    others = {key: a for key, a in manifest.artifacts.items() if not is_results(key)}
    earlier = {
        f"{RESULTS}-{place}": manifest.artifacts[key]
        for place, key in enumerate(keys[: keep - 1], start=1)
    }
    return replace(manifest, artifacts={**others, **earlier})
