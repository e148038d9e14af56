"""Errors, types, files, configuration, workspace, worker processes; imports no other package."""
