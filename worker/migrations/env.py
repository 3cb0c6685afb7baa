"""What alembic runs; the connection comes from ``schema.migrate``, never from a file."""

from alembic import context

from worker.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="paynotify_version",
    # Only our own tables: the host's live in the same database.
    include_name=lambda name, kind, _: kind != "table" or str(name).startswith("paynotify_"),
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
