"""ONNX -> engine. Every build is a `BuildPlan` that a child process carries out and a
`BuildOutcome` that it reports.

No step here chooses a precision: engines are strongly typed, the types of the ONNX graph are the
engine's.
"""
