"""ONNX Runtime on the CPU for measuring a graph in memory, with any of its tensors as output."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from hvt_deploy.core.environment import ORT_DISABLED_OPTIMIZERS, cpu_flags, int8_saturates, require
from hvt_deploy.core.tensors import ImagesNCHW
from hvt_deploy.core.verbosity import log_severity

if TYPE_CHECKING:
    import onnxruntime

_NOTHING: Mapping[str, NDArray[np.float32]] = MappingProxyType({})


class RunGraph(Protocol):
    """An open graph."""

    def __call__(
        self,
        outputs: Sequence[str],
        batches: Iterable[ImagesNCHW],
        constants: Mapping[str, NDArray[np.float32]] = _NOTHING,
        /,
    ) -> Iterator[list[NDArray[np.float32]]]:
        """Yield the arrays of each batch (N, 3, H, W), one for each name in `outputs`, in the order
        of the batches: the batch itself for the name of the input. `constants` are other values of
        initializers that are inputs, too.
        """
        ...


# For a graph whose weights are all in memory.
NO_FOLDER = Path()
# Two batches side by side cost less than one after the other with twice the threads each, which
# wait for one another at every operator. The number does not follow the cores: memory would, too.
RUNS_AT_ONCE = 2


def open_graph(model: onnx.ModelProto, threads: int, folder: Path = NO_FOLDER) -> RunGraph:
    """Open a graph in memory; any of its outputs can be asked for.

    External weights, if there are any, are in `folder`. Raises MissingEnvironment without ONNX
    Runtime.
    """
    require("onnxruntime", extra="cpu")
    import onnxruntime as ort

    options = ort.SessionOptions()
    at_once = min(RUNS_AT_ONCE, threads)
    options.intra_op_num_threads, options.log_severity_level = threads // at_once, log_severity()
    # The default order runs nodes that were appended for measuring at the end, with every
    # activation still in memory.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # Threads that spin while NumPy works between two runs cost as much again as the runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    keep_int8_exact(options)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    session = ort.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=ORT_DISABLED_OPTIMIZERS,
    )
    images = model.graph.input[0].name

    def run(
        outputs: Sequence[str],
        batches: Iterable[ImagesNCHW],
        constants: Mapping[str, NDArray[np.float32]] = _NOTHING,
    ) -> Iterator[list[NDArray[np.float32]]]:
        def run_batch(images_NCHW: ImagesNCHW) -> list[NDArray[np.float32]]:
            arrays = {images: images_NCHW}
            inside = [name for name in outputs if name != images]
            if inside:  # ONNX Runtime would take none for all of them
                found = session.run(inside, {images: images_NCHW, **constants})
                arrays |= zip(inside, cast("list[NDArray[np.float32]]", found), strict=True)
            return [arrays[name] for name in outputs]

        waiting = deque[Future[list[NDArray[np.float32]]]]()
        with ThreadPoolExecutor(at_once) as pool:
            for images_NCHW in batches:
                waiting.append(pool.submit(run_batch, images_NCHW))
                if len(waiting) == at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    return run


def keep_int8_exact(options: onnxruntime.SessionOptions) -> None:
    """Let INT8 products be exact on a CPU whose 16-bit sums saturate."""
    if int8_saturates(cpu_flags()):
        # Signed Q/DQ saturate too, for the optimizer makes them unsigned. This makes the weights
        # unsigned as well, whose kernel is exact. With VNNI it would only be slower, and some
        # graphs of other quantizers then fail.
        options.add_session_config_entry("session.x64quantprecision", "1")
