"""The reference's logits of a set of images, kept for machines that cannot run the reference.

They are kept as they were, in float32: in float16 ties appear, and another class wins in 1 of 1000
images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput
from hvt_deploy.core.tensors import LogitsNK


@dataclass(frozen=True, eq=False)
class RecordedLogits:
    """Logits (K,) by the sha256 of the image file."""

    logits: Mapping[str, NDArray[np.float32]]
    """Float32 arrays by the hash of the image file."""

    def write(self, path: Path) -> None:
        """Write as .npz: `sha256` (N, 32) bytes and `logits` (N, K)."""
        hashes = np.array([list(bytes.fromhex(key)) for key in self.logits], np.uint8)
        np.savez_compressed(path, sha256=hashes, logits=np.stack(list(self.logits.values())))

    def of(self, hashes: Sequence[str], paths: Sequence[Path]) -> LogitsNK:
        """Logits (N, K) of images by hash. Raises BadInput that names an image which was not
        recorded.
        """
        missing = [path for key, path in zip(hashes, paths, strict=True) if key not in self.logits]
        if missing:
            raise BadInput(
                f"{len(missing)} of {len(paths)} images are not among the {len(self.logits)} that "
                f"were recorded, {missing[0]} for one.",
                "Validate on the images that were recorded, or record these: validate --record "
                "where PyTorch runs.",
            )
        return np.stack([self.logits[key] for key in hashes])


def read_recorded(path: Path) -> RecordedLogits:
    """Read what `RecordedLogits.write` wrote. Raises BadInput if it is not that."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            hashes, logits = arrays["sha256"], arrays["logits"]
        return RecordedLogits(
            {bytes(row).hex(): values for row, values in zip(hashes, logits, strict=True)}
        )
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise BadInput(
            f"{path} does not hold recorded logits: {error}.", "Record again: validate --record"
        ) from None
