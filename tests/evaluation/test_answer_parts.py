"""The parts of a validation that was ended: found by one with the same images, labels and settings,
and by no other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hvt_deploy.data.folders import Sample
from hvt_deploy.evaluation.answer_parts import AnswerParts
from hvt_deploy.evaluation.image_answers import answer_images

NAMES = ["pytorch fp32", "ort int8"]
SETTINGS = {"engine": "5f3c", "batch": 2}


@pytest.fixture
def samples(tmp_path):
    found = [Sample(tmp_path / "val" / f"{i}.png", i % 2) for i in range(5)]
    (tmp_path / "val").mkdir()
    for i, sample in enumerate(found):
        sample.path.write_bytes(bytes([i]))
    return found


def open_parts(tmp_path, samples, settings=SETTINGS, batch_size=256):
    return AnswerParts(tmp_path / "parts", tmp_path / "val", samples, batch_size, settings)


@pytest.fixture
def kept(tmp_path, samples):
    parts = open_parts(tmp_path, samples)
    rng = np.random.default_rng(0)
    logits = {name: rng.standard_normal((5, 3), np.float32) for name in NAMES}
    labels, files = np.array([s.label for s in samples]), [parts.name_of(s) for s in samples]
    (part,) = parts.parts
    parts.keep(part, answer_images(logits, labels, np.arange(5), files))
    return parts


def test_a_run_with_the_same_settings_goes_on(kept, tmp_path, samples):
    (found,) = open_parts(tmp_path, samples).find(NAMES).values()
    assert found.files == tuple(f"{i}.png" for i in range(5))
    assert open_parts(tmp_path, samples).find(NAMES[:1])
    assert not open_parts(tmp_path, samples).find([*NAMES, "trt int8"])
    assert not open_parts(tmp_path, samples).find(NAMES[::-1])


def test_other_settings_images_or_labels_are_evaluated_themselves(kept, tmp_path, samples):
    assert not open_parts(tmp_path, samples, {**SETTINGS, "engine": "77aa"}).find(NAMES)
    relabelled = [*samples[:4], replace(samples[4], label=1)]
    assert not open_parts(tmp_path, relabelled).find(NAMES)
    assert not open_parts(tmp_path, samples[::-1]).find(NAMES)
    samples[2].path.write_bytes(b"another image")
    assert not open_parts(tmp_path, samples).find(NAMES)


def test_the_hash_of_the_images_is_that_of_contents_and_labels_alone(tmp_path, samples):
    whole = open_parts(tmp_path, samples).hash_images()
    assert open_parts(tmp_path, samples[::-1], batch_size=400).hash_images() == whole
    assert open_parts(tmp_path, [*samples[:4], replace(samples[4], label=1)]).hash_images() != whole
    samples[2].path.write_bytes(b"another image")
    assert open_parts(tmp_path, samples).hash_images() != whole
