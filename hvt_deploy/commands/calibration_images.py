"""Calibration images: read at the model's batch size, and dealt out to what is found and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hvt_deploy.core.environment import cpu_count
from hvt_deploy.core.manifest import Manifest
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.ui import Progress
from hvt_deploy.data.folders import Sample
from hvt_deploy.data.images import load_batches
from hvt_deploy.data.sampling import order_evenly
from hvt_deploy.graph.quantization.calibration import CalibrationImages

# Of the calibration images, how many the errors of INT8 are measured on, and how many others every
# choice is judged on; so many judge the last ones.
_LOCAL, _JUDGED, _JUDGES = 16, 32, 128


@dataclass(frozen=True)
class CalibrationReader:
    """Reads calibration images at the model's batch size."""

    manifest: Manifest
    """Of the model."""
    batch_size: int
    """Images per batch, unless the graph has a fixed batch size."""

    def batches(
        self, samples: tuple[Sample, ...], progress: Progress | None = None
    ) -> Iterator[ImagesNCHW]:
        """The images in batches (N, 3, H, W), in order."""
        fixed, done = self.manifest.signature.batch, 0
        for batch in load_batches(
            samples,
            self.manifest.preprocessing,
            fixed or self.batch_size,
            cpu_count(),
            fill=fixed is not None,
        ):
            yield batch.images_NCHW
            done += len(batch.samples)
            if progress:
                progress(done, len(samples))


@dataclass(frozen=True)
class _Again:
    """Images that are read again at each iteration, not held in memory."""

    reader: CalibrationReader
    """Reads them."""
    samples: tuple[Sample, ...]
    """The images."""

    def __iter__(self) -> Iterator[ImagesNCHW]:
        """The images in batches (N, 3, H, W)."""
        return self.reader.batches(self.samples) if self.samples else iter(())


def split_images(samples: tuple[Sample, ...], reader: CalibrationReader) -> CalibrationImages:
    """Half of the images, at most `_JUDGES`, judge what is found on the others; a single one does
    both.
    """
    order = tuple(samples[place] for place in order_evenly(len(samples)))
    judges = order[: min(len(order) // 2, _JUDGES)] or order
    others = order[len(judges) :] or order
    return CalibrationImages(
        reader.batches(others),
        list(reader.batches(others[:_LOCAL])),
        list(reader.batches(judges[:_JUDGED])),
        _Again(reader, judges[_JUDGED:]),
    )
