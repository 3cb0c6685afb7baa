"""The history of the tables leads to the tables the code believes in."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text

from worker import columns, schema
from worker.errors import UnavailableError


def test_the_migrated_tables_are_the_declared_ones(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": "paynotify_version",
                "include_name": lambda name, kind, _: (
                    kind != "table" or str(name).startswith("paynotify_")
                ),
            },
        )
        assert compare_metadata(context, columns.metadata) == []


def test_the_head_this_code_wants_is_the_newest_migration() -> None:
    script = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    assert script.get_heads() == [schema.HEAD]


def test_migrating_again_changes_nothing_and_leaves_the_hosts_tables(engine: Engine) -> None:
    with engine.begin() as tx:
        tx.execute(text("CREATE TABLE customer_order (no TEXT)"))
    schema.migrate(engine)
    schema.require_current(engine)
    assert "customer_order" in inspect(engine).get_table_names()


def test_an_empty_database_is_refused_with_the_line_to_run() -> None:
    with pytest.raises(UnavailableError, match="paynotify migrate"):
        schema.require_current(create_engine("sqlite://"))
