"""An ONNX file that has its preprocessing in the graph, in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx.utils
import onnxruntime
from numpy.typing import NDArray

from hvt_deploy.core.errors import BadInput, ToolFailure
from hvt_deploy.core.tensors import PIXELS_NAME, ImagesNCHW, LogitsNK, PixelsHWC
from hvt_deploy.core.verbosity import log_severity
from hvt_deploy.graph.storage import load_onnx
from hvt_deploy.runtime.base import BackendRequest


class OrtPixelsBackend:
    """Runs an ONNX file whose input is uint8 (batch, height, width, 3), one image after the other.

    Raises BadInput for a file with a different signature, ToolFailure where ONNX Runtime cannot
    run it.
    """

    def __init__(self, request: BackendRequest) -> None:
        self.name = request.variant.name
        self._request = request
        model = load_onnx(request.path, weights=False)
        if [value.name for value in model.graph.input] != [PIXELS_NAME]:
            raise BadInput(
                f"{request.path} does not take '{PIXELS_NAME}'.", "Run: hvt-deploy export"
            )
        head = onnx.utils.Extractor(model).extract_model(
            [PIXELS_NAME], [request.signature.input_name]
        )
        try:
            self._session = _open_pixels_session(request.path, request.threads)
            self._head = _open_pixels_session(head.SerializeToString(), request.threads)
        except Exception as error:
            raise ToolFailure(
                f"ONNX Runtime {onnxruntime.__version__} cannot run {request.path}: {error}"
            ) from error

    def infer_pixels(self, images: Sequence[PixelsHWC]) -> LogitsNK:
        """Logits (N, K) in float32 for RGB images (H, W, 3) of any sizes."""
        return np.concatenate(
            [
                self._run(self._session, image, self._request.signature.output_name)
                for image in images
            ]
        )

    def preprocess(self, image: PixelsHWC) -> ImagesNCHW:
        """The preprocessed input of the network for one image: (1, 3, H, W)."""
        return self._run(self._head, image, self._request.signature.input_name)

    def close(self) -> None:
        """Free the sessions."""
        del self._session, self._head

    def _run(
        self, session: onnxruntime.InferenceSession, image: PixelsHWC, output: str
    ) -> NDArray[np.float32]:
        batch = np.repeat(image[None], self._request.signature.batch or 1, axis=0)
        try:
            return np.asarray(session.run([output], {PIXELS_NAME: batch})[0], np.float32)[:1]
        except Exception as error:
            raise ToolFailure(
                f"{self.name} cannot run an image of {image.shape[:2]} pixels: {error}"
            ) from error


def _open_pixels_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = log_severity()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
