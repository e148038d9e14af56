"""FP32 graph to FP16 or INT8: ranges, calibrators, Q/DQ placement, the CPU variant."""
