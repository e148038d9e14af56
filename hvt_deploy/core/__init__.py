"""Shared foundations: errors, types, files, configuration, workspace and worker processes. Imports
no other package.
"""
