"""TensorRT engines: build, audit, passport, and the backend that runs them.

Every build is a `BuildPlan` that a child process carries out and a `BuildOutcome` that it reports.
No step here chooses a precision: engines are strongly typed, so the types of the ONNX graph are the
engine's.
"""
