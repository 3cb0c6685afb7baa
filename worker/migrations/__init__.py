"""The history of the tables, for alembic; ``schema.migrate`` runs it."""
