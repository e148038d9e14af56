"""Checkpoints: found, downloaded, read without executing them, matched key by key, loaded."""
