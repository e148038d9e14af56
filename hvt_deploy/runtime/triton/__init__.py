"""Artifacts -> folders that another program serves."""
