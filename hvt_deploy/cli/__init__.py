"""The command line: one command per verb. It reads flags, calls a step or a flow, shows what came
back.

Logs and progress go to stderr, results to stdout. Nothing heavy is imported before a verb needs it.
Verbs stand in `--help` in the order of these imports.
"""

# ruff: noqa: I001
from hvt_deploy.cli.app import app, run
from hvt_deploy.cli import graphs, engines, evaluation as judging, serving, about as around

__all__ = ["app", "around", "engines", "graphs", "judging", "run", "serving"]
