"""Triton Python backend: the bytes of image files -> normalised pixels, as the network was trained
on.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from hvt_deploy.core.types import Preprocessing
from hvt_deploy.data.decoding import decode
from hvt_deploy.data.images import preprocess


class TritonPythonModel:
    """`image` (B, 1) bytes of JPEG, PNG or another format Pillow reads -> pixels (B, 3, H, W)
    float32.
    """

    def initialize(self, args):
        values = json.loads(
            (Path(__file__).parent / "preprocessing.json").read_text(encoding="utf-8")
        )
        for key in ("image_size", "mean", "std"):
            values[key] = tuple(values[key])
        self.preprocessing = Preprocessing(**values)
        self.output = json.loads(args["model_config"])["output"][0]["name"]

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        files = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        try:
            pixels = np.stack(
                [preprocess(decode(io.BytesIO(file)), self.preprocessing) for file in files]
            )
        except Exception as error:
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(f"The image cannot be read: {error}")
            )
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, pixels)])
