"""Whether libraries may print their own lines: PyTorch, ONNX Runtime, TensorRT."""

from __future__ import annotations

import os
import sys
import warnings

# Set to 1 by `--verbose`; child processes inherit it.
VERBOSE = "HVT_DEPLOY_VERBOSE"
_TORCH_LOGS = "TORCH_LOGS"


def is_verbose() -> bool:
    """Whether the lines that libraries print are shown."""
    return os.environ.get(VERBOSE) == "1"


def silence_libraries() -> None:
    """Leave out what libraries warn of, here and in child processes; what a user asked for stays
    (`python -W`, TORCH_LOGS). To be called before PyTorch is imported.
    """
    os.environ.setdefault(_TORCH_LOGS, "-all")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def log_severity() -> int:
    """The lowest level of ONNX Runtime's messages that is printed: 2 warnings, 3 errors."""
    return 2 if is_verbose() else 3
