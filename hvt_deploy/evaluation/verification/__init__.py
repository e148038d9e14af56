"""Checks of the code that needs a GPU, on the GPU of this machine: `hvt-deploy doctor --verify`."""
