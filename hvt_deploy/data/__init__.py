"""Files to tensors: image folders, samples, class names, subsets, decoding, loading and calibration
sets.
"""
