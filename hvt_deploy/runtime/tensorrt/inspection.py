"""The layers of a classic TensorRT engine, read from its inspector on the GPU that built it.

For dynamic shapes the inspector knows formats only through an execution context whose profile and
shapes are set (NVIDIA's header; trtexec does the same): each profile is asked in its own context.
"""

from __future__ import annotations

from hvt_deploy.core.errors import ToolFailure
from hvt_deploy.runtime.tensorrt.api import ICudaEngine, IExecutionContext, TensorRT
from hvt_deploy.runtime.tensorrt.layer_list import EngineLayer, parse_inspector_json

_DEFAULT_STREAM = 0


def inspect_engine(trt: TensorRT, engine: ICudaEngine) -> tuple[EngineLayer, ...]:
    """The layers of every profile.

    Raises ToolFailure where a profile cannot be opened, or where the data types of a kernel stay
    unknown: an audit of the rest would be wrong.
    """
    layers: list[EngineLayer] = []
    for profile in range(engine.num_optimization_profiles):
        context = _open_profile(trt, engine, profile)
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        layers += parse_inspector_json(text, profile)
    unknown = [layer.name for layer in layers if layer.has_unknown_types]
    if unknown:
        raise ToolFailure(
            f"The inspector does not report the data types of {len(unknown)} of {len(layers)} "
            f"layers, '{unknown[0]}' among them."
        )
    return tuple(layers)


def _open_profile(trt: TensorRT, engine: ICudaEngine, profile: int) -> IExecutionContext:
    """A context with this profile and the shapes that it is tuned for."""
    context = engine.create_execution_context()
    if context is None or not context.set_optimization_profile_async(profile, _DEFAULT_STREAM):
        raise ToolFailure(f"The inspector cannot open profile {profile}.")
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if is_input and -1 in (*engine.get_tensor_shape(name),):
            _, opt, _ = engine.get_tensor_profile_shape(name, profile)
            if not context.set_input_shape(name, (*opt,)):
                raise ToolFailure(f"The inspector cannot open profile {profile}.")
    return context
