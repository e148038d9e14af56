"""One file per verb. A step finds its inputs in the workspace, calls shelves and records what came
out.

A step never imports another step; what needs several is a function in `hvt_deploy.commands.flows`.
"""
