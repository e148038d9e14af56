"""Which backends a validation compares: one row for each artifact and the runtime that can run it here."""

from __future__ import annotations
