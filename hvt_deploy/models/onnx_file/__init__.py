"""An ONNX file of another exporter: network and weights in one."""
