"""ONNX files of other exporters: read and checked, their nodes named by module path and role."""
