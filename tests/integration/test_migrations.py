"""Databases of every earlier version, with rows in them, become today's; nothing in them is lost."""

import threading
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import ARRAY, MetaData, insert, select, text
from sqlalchemy.dialects.postgresql import JSONB

from infra.database import connect
from models.errors import StoreError
from monitoring.drift.alert_log import list_alerts
from monitoring.learning.policy_states import list_states
from monitoring.store.answers import read_answer, spent_this_month
from monitoring.store.audit import read_audit
from monitoring.store.decisions import read_decision
from monitoring.store.feedback import read_feedback
from monitoring.store.keys import list_keys, valid_keys
from monitoring.store.releases import known_releases
from monitoring.store.schema import configuration, current, migrate, newest

REVISIONS = sorted(
    script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()
)
ROWS = 3
JSON = {"a": {"quality": 0.5, "cost_usd": 0.001}}
LISTS = {"attempts": [{"llm": "a"}], "signals": []}


def value(column: Any, number: int, decision: UUID) -> Any:
    """What a service of that time may have written. Text differs row by row: names are unique."""
    if column.name in ("id", "decision_id") and column.type.python_type is UUID:
        return decision
    if column.name in ("revoked_at", "exploration"):
        return None
    if column.name == "sha256":
        return f"{number:064x}"
    if isinstance(column.type, JSONB):
        return LISTS.get(column.name, JSON)
    if isinstance(column.type, ARRAY):
        return ["route"]
    kind = column.type.python_type
    if kind is datetime:
        return datetime.now(UTC)
    if kind is bytes:
        return b"\0\0\0\0"
    return {bool: True, float: 0.5, int: number + 1, str: f"{column.name} {number} grün"}[kind]


def fill(engine: Any) -> dict[str, int]:
    """Rows in every table that there is; returns how many are in each."""
    metadata = MetaData()
    metadata.reflect(engine)
    decisions = [uuid4() for _ in range(ROWS)]
    tables = {n: t for n, t in metadata.tables.items() if n != "alembic_version"}
    with engine.begin() as connection:
        for table in tables.values():
            columns = [c for c in table.columns if c.identity is None]
            for number, decision in enumerate(decisions):
                row = {c.name: value(c, number, decision) for c in columns}
                connection.execute(insert(table).values(row))
    return dict.fromkeys(tables, ROWS)


def counts(engine: Any, tables: Any) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in tables
        }


@pytest.mark.parametrize("revision", REVISIONS)
def test_rows_of_every_version_outlive_the_upgrade_and_can_be_read(
    empty_database: str, revision: str
) -> None:
    engine = connect(empty_database)
    migrate(engine, revision)
    filled = fill(engine)
    migrate(engine)
    assert current(engine) == newest()
    assert counts(engine, filled) == filled
    with engine.connect() as connection:
        ids = [UUID(str(i)) for (i,) in connection.execute(text("SELECT id FROM decisions"))]
        known = known_releases(connection)
    for identity in ids:
        decision = read_decision(engine, identity)
        assert decision is not None
        assert decision["scores"] == JSON
        assert decision["llm"].startswith("llm ")
        answer = read_answer(engine, identity)
        assert (answer is not None) == ("answers" in filled)
        assert len(read_feedback(engine, identity)) == ("feedback" in filled)
    keys = filled.get("api_keys", 0)
    assert len(list_keys(engine)) == len(valid_keys(engine)) == keys
    assert len(spent_this_month(engine)) == keys
    assert len(known) == filled.get("releases", 0)
    assert len(list_states(engine)) == filled.get("policy_states", 0)
    assert len(list_alerts(engine)) == len(read_audit(engine)) == filled.get("alerts", 0)
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_going_back_keeps_what_the_older_version_knows(empty_database: str, revision: str) -> None:
    engine = connect(empty_database)
    migrate(engine, revision)
    filled = fill(engine)
    migrate(engine)
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
    assert counts(engine, filled) == filled
    migrate(engine)
    assert counts(engine, filled) == filled
    engine.dispose()


def test_several_processes_that_start_at_once_migrate_once(empty_database: str) -> None:
    engines = [connect(empty_database) for _ in range(4)]
    failures: list[BaseException] = []

    def run(engine: Any) -> None:
        try:
            migrate(engine)
        except BaseException as error:  # noqa: BLE001 - the test fails by it below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engines[0].connect() as connection:
        rows = connection.execute(text("SELECT version_num FROM alembic_version")).all()
    assert rows == [(newest(),)]
    for engine in engines:
        engine.dispose()


def test_a_database_of_a_later_version_is_refused_and_left_alone(empty_database: str) -> None:
    engine = connect(empty_database)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="schema is 9999, newer than"):
        migrate(engine)
    assert current(engine) == "9999"
    engine.dispose()


def test_a_database_that_is_up_to_date_may_be_read_only(empty_database: str) -> None:
    engine = connect(empty_database)
    migrate(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = engine.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    engine.dispose()
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(select(1)).scalar_one() == 1
    engine.dispose()
