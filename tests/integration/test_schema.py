from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine

from monitoring.store.schema import current, migrate, newest
from monitoring.store.tables import metadata


def test_a_migrated_schema_is_the_one_the_code_describes(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    migrate(engine)
    assert current(engine) == newest()


def test_every_migration_can_be_undone(engine: Engine) -> None:
    from alembic import command

    from monitoring.store.schema import configuration

    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert current(engine) is None
    migrate(engine)
    assert current(engine) == newest()
