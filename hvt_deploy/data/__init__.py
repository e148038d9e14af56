"""From files to tensors: image folders, labels, class names, subsets, loading, calibration sets."""
