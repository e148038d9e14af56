"""One file per verb.

A command finds its inputs in the workspace, calls the packages to its left and records the result.
It may call another command.
"""
