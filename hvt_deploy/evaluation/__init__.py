"""Backends to numbers: accuracy, latency and parity with their intervals. Nothing here is a
verdict.
"""
