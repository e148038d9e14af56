"""Rows whose runtime fails, when it opens, on the first batch or later: the others go on."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from hvt_deploy.core.errors import BadInput, MissingEnvironment, ToolFailure
from hvt_deploy.core.types import Preprocessing
from hvt_deploy.core.ui import SilentUi
from hvt_deploy.data.folders import Sample
from hvt_deploy.data.images import load_batches
from hvt_deploy.evaluation.answer_parts import AnswerParts
from hvt_deploy.evaluation.candidates import Candidate
from hvt_deploy.evaluation.measurement import measure_images
from hvt_deploy.evaluation.memory import MemoryMeter
from hvt_deploy.evaluation.opened_rows import open_rows
from hvt_deploy.evaluation.record import Row
from hvt_deploy.runtime.failures import breaks_cuda
from hvt_deploy.runtime.variant import Variant

CLASSES, IMAGES = 3, 10
NO_COMPILER = RuntimeError("Failed to find C compiler.\nPlease specify one.")
OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
ILLEGAL = RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0")


@dataclass
class Scripted:
    """Answers class 1; at its `fails_at`-th inference it raises `error`."""

    name: str
    error: Exception | None = None
    fails_at: int = 1
    calls: int = 0
    closed: int = 0
    seen: list[int] = field(default_factory=list)

    def infer(self, images_NCHW):
        self.calls += 1
        self.seen.append(len(images_NCHW))
        if self.error is not None and self.calls >= self.fails_at:
            raise self.error
        return np.tile(np.eye(CLASSES, dtype=np.float32)[1], (len(images_NCHW), 1))

    def bind(self, images_NCHW):
        return lambda: None

    def close(self):
        self.closed += 1
        if self.error is not None and breaks_cuda(self.error):
            raise self.error


REFERENCE, FP16 = Variant("pytorch", "cuda", "fp32"), Variant("pytorch", "cuda", "fp16", "compiled")
ORT, ENGINE = Variant("ort", "cpu", "fp32"), Variant("trt", "cuda", "int8")


@pytest.fixture
def loader(tmp_path):
    samples = []
    for i in range(IMAGES):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(path)
        samples.append(Sample(path, i % CLASSES))
    return load_batches(samples, Preprocessing((8, 8), 1.0), 4, 1, fill=True)


@contextmanager
def opened(backends):
    candidates = [
        Candidate(Row("m", v.name, v, None), lambda backend=backend: backend)
        for v, backend in backends.items()
    ]
    with open_rows(candidates, MemoryMeter(None), SilentUi()) as rows:
        yield rows


def measure(rows, loader):
    place = loader.samples[0].path.parent
    return measure_images(
        rows,
        loader,
        AnswerParts(place / "parts", place, loader.samples, loader.batch_size, {}),
        np.arange(CLASSES),
        MemoryMeter(None),
        SilentUi(),
        keep_reference=False,
        announce=lambda _, __: None,
    )


@pytest.mark.parametrize(
    ("error", "fails_at"), [(NO_COMPILER, 1), (OUT_OF_MEMORY, 3), (ToolFailure("No.", "Why?"), 2)]
)
def test_a_row_that_fails_is_skipped_with_its_reason_and_the_others_go_on(loader, error, fails_at):
    failing = Scripted("compiled", error, fails_at)
    backends = {REFERENCE: Scripted("pytorch"), FP16: failing, ORT: Scripted("ort")}
    with opened(backends) as rows:
        found = {row.backend: row for row in measure(rows, loader).rows}
    skipped = found.pop(FP16.name)
    assert str(error).splitlines()[0] in skipped.skipped
    assert "Please specify" not in skipped.skipped
    assert (skipped.accuracy, failing.calls, failing.closed) == (None, fails_at, 1)
    for row in found.values():
        assert (row.skipped, row.images, row.accuracy.images) == (None, IMAGES, IMAGES)
    assert set(found) == {REFERENCE.name, ORT.name}


def test_after_a_sticky_cuda_error_the_rows_on_the_gpu_end_and_those_on_the_cpu_stay(loader):
    engine = Scripted("trt", ILLEGAL, fails_at=3)
    half = Scripted("compiled")
    backends = {Variant("pytorch", "cpu", "fp32"): Scripted("pytorch"), ENGINE: engine, FP16: half}
    with opened({**backends, ORT: Scripted("ort")}) as rows:
        found = {row.backend: row for row in measure(rows, loader).rows}
    assert "an illegal memory access" in found[ENGINE.name].skipped
    assert found[FP16.name].skipped.startswith("CUDA is unusable since trt int8 failed")
    assert half.calls == 2, "it was not asked again in the batch of the error"
    assert found[ORT.name].accuracy.images == found["pytorch fp32"].accuracy.images == IMAGES


def test_after_a_sticky_error_no_row_is_opened_on_the_gpu():
    def broken():
        raise ILLEGAL

    never = pytest.fail
    rows = [
        Candidate(Row("m", "trt int8", ENGINE, None), broken),
        Candidate(Row("m", FP16.name, FP16, None), lambda: never("opened after a sticky error")),
        Candidate(Row("m", ORT.name, ORT, None), lambda: Scripted("ort")),
    ]
    with open_rows(rows, MemoryMeter(None), SilentUi()) as opened_rows:
        assert [row.backend for row in opened_rows.rows] == ["ort fp32", "trt int8", FP16.name]
        assert "CUDA is unusable" in opened_rows.rows[2].skipped


def test_where_the_reference_fails_the_next_row_takes_its_place_from_the_first_image_on(loader):
    ort = Scripted("ort")
    backends = {REFERENCE: Scripted("pytorch", OUT_OF_MEMORY, fails_at=3), ORT: ort}
    with opened({**backends, ENGINE: Scripted("trt")}) as rows:
        found = measure(rows, loader)
    reference, engine, skipped = found.rows
    assert (reference.backend, reference.accuracy.drop) == (ORT.name, None)
    assert reference.accuracy.images == engine.fidelity.agreement.estimate / 10 == IMAGES
    assert "CUDA out of memory" in skipped.skipped
    assert set(found.answers.answers) == {ORT.name, ENGINE.name}
    assert len(found.answers.files) == IMAGES


def test_where_every_row_fails_the_run_ends_with_all_reasons(loader):
    backends = {REFERENCE: Scripted("pytorch", OUT_OF_MEMORY), ORT: Scripted("ort", NO_COMPILER)}
    with opened(backends) as rows, pytest.raises(ToolFailure) as caught:
        measure(rows, loader)
    assert "CUDA out of memory" in caught.value.message
    assert "Failed to find C compiler" in caught.value.message


def test_only_missing_parts_are_a_matter_of_the_environment_and_bad_input_is_raised():
    def opening(error):
        def fail():
            raise error

        return [Candidate(Row("m", ORT.name, ORT, None), fail)]

    for error in (MissingEnvironment("No provider."), BadInput("Broken file.")):
        with (
            pytest.raises(type(error), match=error.message),
            open_rows(opening(error), MemoryMeter(None), SilentUi()),
        ):
            pass


@pytest.mark.parametrize(
    ("text", "is_sticky"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("Error Code 1: Cuda Runtime (unspecified launch failure)", True),
        (
            "cuStreamSynchronize failed: CUDA_ERROR_ECC_UNCORRECTABLE (uncorrectable ECC error)",
            True,
        ),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("CUDA error: no kernel image is available for execution on the device", False),
    ],
)
def test_sticky_errors_are_known_by_the_text_that_every_library_quotes(text, is_sticky):
    assert breaks_cuda(RuntimeError(text)) == is_sticky
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError as cause:
            raise ToolFailure("ONNX Runtime cannot run it.") from cause
    except ToolFailure as error:
        assert breaks_cuda(error) == is_sticky
