"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from infra.database import connect, database_address
from infra.settings import Settings
from models.errors import StoreError
from monitoring.store.locks import take_lock

MIGRATIONS: Final = Path(__file__).parent / "migrations"
# Two processes that start at once must not both migrate: any number will do, as long as it stays.
LOCK: Final = 77_202_511


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def newest() -> str:
    """The newest revision that the code knows."""
    return str(ScriptDirectory.from_config(configuration()).get_current_head())


def current(engine: Engine) -> str | None:
    """The database's revision, None when it has none."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def open_store(settings: Settings, *, impatient: bool = False) -> Engine:
    """The configured or embedded database, migrated.

    impatient: see ``connect``; a migration has no time limit all the same.
    """
    address = database_address(settings.database(), settings.home)
    engine = connect(address)
    migrate(engine)
    if not impatient:
        return engine
    engine.dispose()
    return connect(address, impatient=True)


def migrate(engine: Engine, revision: str = "head") -> None:
    """Run what migrations are missing, one process at a time.

    Raises StoreError where the database is of a version that this one does not know.
    """
    config = configuration()
    with engine.begin() as connection:
        take_lock(connection, LOCK)
        schema = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if schema is not None and schema not in known:
            raise StoreError(
                f"the database's schema is {schema}, newer than {newest()}, the last that this "
                "version knows: run the version of MixLLM that made it, or restore a backup"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
