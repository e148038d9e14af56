"""Hierarchical vision transformers from a PyTorch checkpoint to a verified TensorRT engine."""

__version__ = "0.1.0"
