"""FP32 graphs to FP16 and INT8: ranges, calibration, Q/DQ placement, the CPU variant."""
