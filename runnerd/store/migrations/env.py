"""The script that Alembic runs for each command.  It uses the connection it is given and opens none itself."""

from __future__ import annotations

from alembic import context

from runnerd.store import tables

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=tables.metadata,
    version_table=tables.VERSION_TABLE,
    # SQLite alters a table by making a new one.
    render_as_batch=True,
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
