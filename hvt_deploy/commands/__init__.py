"""One file per verb: finds its inputs in the workspace, calls the packages to its left and records
the result. A command may call another.
"""
