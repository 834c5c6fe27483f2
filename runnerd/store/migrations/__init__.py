"""The history of the schema, for Alembic."""

from __future__ import annotations
