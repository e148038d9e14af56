"""torch -> ONNX -> ONNX: every pass is a function from an `onnx.ModelProto` to a new one.

A pass leaves its argument as it was and keeps node names. Precision is decided here, in the graph.
"""
