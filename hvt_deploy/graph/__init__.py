"""torch -> ONNX -> ONNX: every pass is a function from an `onnx.ModelProto` to a new one.

A pass does not change its argument and keeps node names. Precision is decided here, in the graph.
"""
