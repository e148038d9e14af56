"""The command line: one function per command. It reads flags, calls `commands`, shows the result.

Logs and progress go to stderr, results to stdout. A command imports what it needs when it runs, so
that `--help` is fast. `--help` lists the commands in the order of these imports.
"""

# ruff: noqa: I001
from hvt_deploy.cli.app import app, run
from hvt_deploy.cli import (
    graphs,
    precision,
    engines,
    inspection,
    validation,
    comparison,
    sweeping,
    diagnosis,
    serving,
    workspaces,
    about,
)

__all__ = [
    "about",
    "app",
    "comparison",
    "diagnosis",
    "engines",
    "graphs",
    "inspection",
    "precision",
    "run",
    "serving",
    "sweeping",
    "validation",
    "workspaces",
]
