import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from sqlalchemy import Engine, event, insert, text
from sqlalchemy.exc import OperationalError

from infra.database import connect
from models.errors import StoreError
from models.release.release import Release
from monitoring.drift.alert_log import read_alert
from monitoring.drift.refused_rows import raise_alert
from monitoring.store.audit import Step, note, read_audit
from monitoring.store.dead_letters import DeadLetter
from monitoring.store.decisions import (
    Asked,
    DecidedBy,
    Fallback,
    _decoded,
    count_decisions,
    decision_row,
    fallback_row,
    insert_decisions,
    new_id,
    packed,
    read_decision,
)
from monitoring.store.feedback import insert_feedback, read_feedback
from monitoring.store.inserter import Sink
from monitoring.store.journal import Journal
from monitoring.store.journals import JOURNALS, JournalKind
from monitoring.store.keys import create_key, list_keys
from monitoring.store.rows import check_table, typed
from monitoring.store.segments import read_segment
from monitoring.store.tables import decisions
from votes import vote


def row(number: int = 0) -> dict[str, Any]:
    return fallback_row(Fallback("a", "a test", 0.01, "1"), Asked(f"query {number}", "full"), 0.001)


class Database:
    """A real database that can be taken away."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.away = False

    def insert(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.away:
            raise OperationalError("INSERT", {}, OSError("connection refused"))
        insert_decisions(self.engine, rows)

    def check(self) -> None:
        check_table(self.engine, decisions)


@pytest.fixture
def database(engine: Engine) -> Database:
    return Database(engine)


def test_rows_reach_the_table_and_the_files_go(database: Database, tmp_path: Path) -> None:
    journal = Journal(tmp_path, Sink(database.insert), flush_seconds=0.05)
    journal.start()
    rows = [row(i) for i in range(50)]
    for each in rows:
        journal.append(each)
    journal.close()
    assert count_decisions(database.engine) == 50
    assert journal.waiting == 0
    assert list(tmp_path.iterdir()) == []


def test_rows_wait_while_the_database_is_away(database: Database, tmp_path: Path) -> None:
    journal = Journal(tmp_path, Sink(database.insert), flush_seconds=0.05)
    database.away = True
    for i in range(20):
        journal.append(row(i))
        if i % 5 == 0:
            assert not journal.flush()
    assert journal.waiting == 20
    assert count_decisions(database.engine) == 0
    assert "connection refused" in str(journal.last_error)
    database.away = False
    assert journal.flush()
    assert journal.waiting == 0
    assert journal.last_error is None
    assert count_decisions(database.engine) == 20
    journal.close()


def test_a_batch_that_arrived_before_the_connection_broke_is_not_counted_twice(
    database: Database, tmp_path: Path
) -> None:
    class Forgetful(Database):
        def insert(self, rows: Sequence[dict[str, Any]]) -> None:
            super().insert(rows)
            if self.away:
                raise OperationalError("COMMIT", {}, OSError("no answer"))

    forgetful = Forgetful(database.engine)
    journal = Journal(tmp_path, Sink(forgetful.insert), flush_seconds=0.05)
    journal.append(row())
    forgetful.away = False
    assert journal._segment is not None
    insert_decisions(database.engine, read_segment(Path(journal._segment.name)))
    assert journal.flush()
    assert count_decisions(database.engine) == 1
    journal.close()


KILLED = """
import sys, time
from pathlib import Path
from monitoring.store.inserter import Sink
from monitoring.store.journal import Journal
from tests_row import row
journal = Journal(Path(sys.argv[1]), Sink(lambda rows: None), flush_seconds=60)
for i in range(30):
    journal.append(row(i))
print("kept", flush=True)
time.sleep(60)
"""


def test_rows_of_a_killed_process_are_taken_over(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    (tmp_path / "tests_row.py").write_text(
        "from monitoring.store.decisions import Asked, Fallback, fallback_row\n"
        "def row(i): return fallback_row(Fallback('a', 'k', 0.01, '1'), Asked(f'q{i}', 'full'), 0.001)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"kept\n"
    alive = Journal(folder, Sink(database.insert), flush_seconds=0.05)
    assert alive.flush()
    assert count_decisions(database.engine) == 0, "a living process keeps its own rows"
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while count_decisions(database.engine) < 30 and time.monotonic() < deadline:
        alive.flush()
    assert count_decisions(database.engine) == 30
    alive.close()


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "segment.jsonl"
    path.write_bytes(orjson.dumps(row()) + b"\n" + orjson.dumps(row())[:40])
    assert len(read_segment(path)) == 1


def test_rows_that_postgres_refuses_do_not_stop_the_others(
    database: Database, tmp_path: Path
) -> None:
    bad = [
        {**row(), "llm": None},
        {},
        {**row(), "id": "no uuid"},
        {**row(), "decided_at": "yesterday"},
        {**row(), "query_characters": 2**40},
        {**row(), "query_characters": "many"},
        {**row(), "propensity": [1.0]},
        {**row(), "propensity": True},
        {**row(), "seconds": float("nan")},
        {**row(), "embedding": "no base64!"},
        {**row(), "embedding": packed(np.zeros(2))[:-4]},  # a number cut in two
        {**row(), "form": packed(np.array([np.nan]))},
        {**row(), "scores": []},
        {**row(), "scores": {"a": {"quality": "good"}}},
        {**row(), "llm": os.urandom(20_000).hex()},  # more than an index takes
        {**row(), "colour": "a column of a later version"},
        {"id": str(new_id())},
    ]
    good = [{**row(1), "llm": "a\x00b", "fallback": "\ud800"}, row(2)]
    journal = Journal(tmp_path, Sink(database.insert, database.check), 60)
    journal.append(good[0])
    for each in bad:
        journal.append(each)
    journal.append(good[1])
    assert journal.flush()
    assert count_decisions(database.engine) == 2
    assert len(journal.dead_letters.read()) == len(bad)
    assert journal.waiting == 0
    stored = read_decision(database.engine, UUID(good[0]["id"]))
    assert stored is not None
    assert (stored["llm"], stored["fallback"]) == ("a\ufffdb", "?")
    journal.close()


@pytest.mark.parametrize(
    "given",
    [
        {"satisfied": None},
        {"quality": 0.5},
        {"satisfied": None, "quality": 1.5},
        {"satisfied": None, "quality": "good"},
        {"satisfied": "yes"},
        {"decision_id": "x"},
        {"llm": None},
        {"prompt_tokens": 2**40},
    ],
)
def test_what_is_no_vote_stops_no_learner(
    engine: Engine, tmp_path: Path, given: dict[str, Any]
) -> None:
    journal = Journal(tmp_path, Sink(lambda rows: insert_feedback(engine, rows)), 60)
    good = [vote(row()) for _ in range(2)]
    journal.append(good[0], {**vote(row()), **given}, good[1])
    assert journal.flush()
    assert journal.dead_letters.count() == 1
    for each in good:
        assert len(read_feedback(engine, UUID(each["decision_id"]))) == 1
    journal.close()


def test_columns_that_the_first_row_lacks_are_kept_of_the_others(database: Database) -> None:
    whole = {**row(), "key_id": "key", "domain": "sums"}
    older = {name: value for name, value in row().items() if name not in ("key_id", "domain")}
    database.insert([older, whole])
    stored = read_decision(database.engine, UUID(whole["id"]))
    assert stored is not None
    assert (stored["key_id"], stored["domain"]) == ("key", "sums")


@pytest.mark.parametrize(
    ("trouble", "undo"),
    [
        ("ALTER TABLE decisions RENAME TO d", "ALTER TABLE d RENAME TO decisions"),
        (
            "ALTER TABLE decisions RENAME COLUMN domain TO d",
            "ALTER TABLE decisions RENAME COLUMN d TO domain",
        ),
        (
            "ALTER DATABASE {name} SET default_transaction_read_only = on",
            "ALTER DATABASE {name} SET default_transaction_read_only = off",
        ),
    ],
)
def test_a_database_that_takes_no_row_at_all_blames_none(
    database: Database, tmp_path: Path, trouble: str, undo: str
) -> None:
    def run(statement: str) -> None:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
            c.execute(text("SET default_transaction_read_only = off"))
            c.execute(text(statement.format(name=database.engine.url.database)))
        database.engine.dispose()

    journal = Journal(tmp_path, Sink(database.insert, database.check), 60)
    run(trouble)
    journal.append(row(1))
    for _ in range(8):
        assert not journal.flush()
    assert journal.last_error is not None
    run(undo)
    assert journal.flush()
    assert count_decisions(database.engine) == 1
    assert journal.dead_letters.count() == 0
    journal.close()


def test_a_locked_row_and_a_locked_table_only_wait(database: Database, tmp_path: Path) -> None:
    @event.listens_for(database.engine, "connect")
    def _soon(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        connection.commit()

    database.engine.dispose()
    journal = Journal(tmp_path, Sink(database.insert, database.check), 60)
    rows = [row(i) for i in range(3)]
    other = connect(database.engine.url.render_as_string(hide_password=False))
    with other.connect() as holder:
        holder.execute(text("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE"))
        journal.append(*rows)
        assert not journal.flush()
        holder.rollback()
    with other.connect() as holder:  # the same id, not committed yet
        holder.execute(insert(decisions).values(typed(decisions, _decoded(rows[1]))))
        assert not journal.flush()
        assert count_decisions(database.engine) == 0
        holder.rollback()
    other.dispose()
    assert journal.flush()
    assert count_decisions(database.engine) == 3
    assert journal.dead_letters.count() == 0
    journal.close()


def test_a_server_without_a_free_connection_only_waits(
    empty_database: str, database: Database, tmp_path: Path
) -> None:
    name = database.engine.url.database
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE ROLE crowded LOGIN"))
        connection.execute(text(f"GRANT ALL ON DATABASE {name} TO crowded"))
        connection.execute(text("GRANT SELECT, INSERT ON decisions TO crowded"))
        connection.execute(text("ALTER ROLE crowded CONNECTION LIMIT 0"))
    crowded = connect(database.engine.url.set(username="crowded").render_as_string(False))
    try:
        journal = Journal(
            tmp_path,
            Sink(
                lambda rows: insert_decisions(crowded, rows),
                check=lambda: check_table(crowded, decisions),
            ),
            60,
        )
        journal.append(row(1))
        for _ in range(8):
            assert not journal.flush()
        assert "too many connections" in str(journal.last_error)
        with database.engine.begin() as connection:
            connection.execute(text("ALTER ROLE crowded CONNECTION LIMIT -1"))
        assert journal.flush()
        assert journal.dead_letters.count() == 0
        journal.close()
    finally:
        crowded.dispose()
        with database.engine.begin() as connection:
            connection.execute(text("DROP OWNED BY crowded CASCADE"))
            connection.execute(text("DROP ROLE crowded"))


@pytest.mark.parametrize("kind", JOURNALS.values(), ids=JOURNALS)
def test_every_journal_s_table_can_be_checked(engine: Engine, kind: JournalKind) -> None:
    check_table(engine, kind.table)
    kind.insert(engine, [])


def test_dead_letters_raise_one_alert_until_it_has_cooled_down(
    engine: Engine, tmp_path: Path
) -> None:
    letters = [DeadLetter.of(b"{}", "column llm has no value")]
    number = raise_alert(engine, "answers", letters, ("digest", "3"))
    assert number is not None
    alert = read_alert(engine, number)
    assert (alert["name"], alert["subject"], alert["state"]) == ("rows-refused", "answers", "open")
    assert "column llm has no value" in alert["signal"]["what"]
    assert raise_alert(engine, "answers", letters, ("digest", "3")) is None
    assert raise_alert(engine, "feedback", letters, ("digest", "3")) is not None


def test_text_that_postgres_cannot_hold_enters_nowhere_as_it_is(engine: Engine) -> None:
    with pytest.raises(StoreError, match="printable"):
        create_key(engine, "a\x00key\ud800", ["route"])
    note(engine, Step("what\x00", "why", "result", evidence={"text\x00": ["\ud800"]}))
    assert list_keys(engine) == []
    (line,) = (line for line in read_audit(engine) if line["what"] == "what\ufffd")
    assert line["evidence"] == {"text\ufffd": ["?"]}


def test_ids_are_ordered_by_time_and_distinct() -> None:
    ids = []
    for _ in range(5):
        ids += [new_id() for _ in range(20)]
        time.sleep(0.002)
    assert len(set(ids)) == 100
    assert [i.hex[:12] for i in ids] == sorted(i.hex[:12] for i in ids)
    assert {i.version for i in ids} == {7}


@pytest.mark.parametrize(
    ("privacy", "text", "hashed"),
    [("full", True, True), ("hash", False, True), ("none", False, False)],
)
def test_only_what_privacy_allows_is_stored(
    privacy: Any, text: bool, hashed: bool, release_folder: Path, engine: Engine
) -> None:
    release = Release.load(release_folder)
    query = "Compute 1 + 1.\x00 \ud800"
    made = decision_row(
        release.route(query), DecidedBy("3", release.digest), Asked(query, privacy, "key"), 0.01
    )
    insert_decisions(engine, [made])
    stored = read_decision(engine, UUID(made["id"]))
    assert stored is not None
    assert (stored["query"] is not None) == text
    assert (stored["query_sha256"] is not None) == hashed
    assert stored["query_characters"] == len(query)
    assert stored["release_version"] == "3"
    assert stored["key_id"] == "key"
    assert set(stored["scores"]) == set(release.candidates)
    assert stored["scores"][stored["llm"]]["score"] == max(
        scores["score"] for scores in stored["scores"].values()
    )
