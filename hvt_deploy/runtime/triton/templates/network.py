"""Triton Python backend: an ONNX file run by ONNX Runtime, for servers without Triton's ONNX
Runtime backend.
"""

import json
from pathlib import Path

import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Normalised pixels (B, 3, H, W) -> logits (B, K)."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        options = ort.SessionOptions()
        options.add_session_config_entry("session.force_spinning_stop", "1")
        cpuinfo = Path("/proc/cpuinfo").read_text(errors="ignore")
        if "avx2" in cpuinfo and "vnni" not in cpuinfo:  # INT8 would saturate
            options.add_session_config_entry("session.x64quantprecision", "1")
        network = Path(__file__).parent / "network.onnx"
        # This pass is wrong on quantized graphs with tiny scales.
        self.session = ort.InferenceSession(
            str(network),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["WeightBiasQuantization"],
        )

    def execute(self, requests):
        responses = []
        for request in requests:
            pixels = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
            (logits,) = self.session.run([self.output], {self.input: pixels})
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(self.output, logits)]))
        return responses
