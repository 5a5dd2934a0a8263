import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from models.release import Release
from monitoring.decisions import (
    Asked,
    count_decisions,
    decision_row,
    fallback_row,
    insert_decisions,
    new_id,
    read_decision,
)
from monitoring.journal import Journal, read_segment


def row(number: int = 0) -> dict[str, Any]:
    return fallback_row("a", "a test", 0.01, Asked(f"query {number}", "full"), 0.001, "1")


class Database:
    """A real database that can be taken away."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.away = False

    def insert(self, rows: Sequence[dict[str, Any]]) -> None:
        if self.away:
            raise OperationalError("INSERT", {}, OSError("connection refused"))
        insert_decisions(self.engine, rows)


@pytest.fixture
def database(engine: Engine) -> Database:
    return Database(engine)


def test_rows_reach_the_table_and_the_files_go(database: Database, tmp_path: Path) -> None:
    journal = Journal(tmp_path, database.insert, flush_seconds=0.05)
    journal.start()
    rows = [row(i) for i in range(50)]
    for each in rows:
        journal.append(each)
    journal.close()
    assert count_decisions(database.engine) == 50
    assert journal.waiting == 0
    assert list(tmp_path.iterdir()) == []


def test_rows_wait_while_the_database_is_away(database: Database, tmp_path: Path) -> None:
    journal = Journal(tmp_path, database.insert, flush_seconds=0.05)
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
    journal = Journal(tmp_path, forgetful.insert, flush_seconds=0.05)
    journal.append(row())
    forgetful.away = False
    insert_decisions(database.engine, read_segment(Path(journal._segment.name)))
    assert journal.flush()
    assert count_decisions(database.engine) == 1
    journal.close()


KILLED = """
import sys, time
from pathlib import Path
from monitoring.journal import Journal
from tests_row import row
journal = Journal(Path(sys.argv[1]), lambda rows: None, flush_seconds=60)
for i in range(30):
    journal.append(row(i))
print("kept", flush=True)
time.sleep(60)
"""


def test_rows_of_a_killed_process_are_taken_over(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    (tmp_path / "tests_row.py").write_text(
        "from monitoring.decisions import Asked, fallback_row\n"
        "def row(i): return fallback_row('a', 'k', 0.01, Asked(f'q{i}', 'full'), 0.001, '1')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"kept\n"
    alive = Journal(folder, database.insert, flush_seconds=0.05)
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
    journal = Journal(tmp_path, database.insert, flush_seconds=0.05)
    journal.append(row(1))
    journal.append({**row(2), "llm": None})
    journal.append(row(3))
    assert journal.flush()
    assert count_decisions(database.engine) == 2
    assert len(list(tmp_path.glob("*.refused"))) == 1
    journal.close()


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
    made = decision_row(release.route(query), release, "3", Asked(query, privacy, "key"), 0.01)
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


def test_a_disk_that_takes_no_new_file_loses_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, database.insert, flush_seconds=0.05)
    journal.append(row(1))
    with monkeypatch.context() as full:

        def refuse() -> None:
            raise OSError("no space left on device")

        full.setattr(journal, "_open_segment", refuse)
        with pytest.raises(OSError, match="no space left"):
            journal.flush()
        journal.append(row(2))
    assert journal.flush()
    assert count_decisions(database.engine) == 2
    journal.close()
