"""The journal's files, on disks that fill up, break, are read-only or are swept clean."""

import errno
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import orjson
import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError, StatementError

from monitoring.store import journal as module
from monitoring.store.availability import DatabaseAway
from monitoring.store.inserter import PATIENCE, Sink
from monitoring.store.journal import Journal
from monitoring.store.segments import read_segment, segments_of


class Table:
    """Takes rows as Postgres would: all of a call or none. bad: what makes a row refused."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.calls = 0
        self.away: Exception | None = None
        self.check_fails = False
        self.bad: dict[Any, Exception] = {}

    def insert(self, rows: Sequence[dict[str, Any]]) -> None:
        self.calls += 1
        if self.away is not None:
            raise self.away
        for row in rows:
            if (error := self.bad.get(row["id"])) is not None:
                raise error
        self.rows += [row["id"] for row in rows if row["id"] not in self.rows]

    def check(self) -> None:
        if self.check_fails:
            raise OperationalError("INSERT", {}, OSError("read-only"))


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def journal(table: Table, tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "j", Sink(table.insert, table.check), 60, synced=True)
    yield made
    made.close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def stored(journal: Journal) -> list[Any]:
    return [row["id"] for path in segments_of(journal.folder) for row in read_segment(path)]


def fails(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_vote_on_a_full_disk_is_refused_and_swallows_no_other(
    journal: Journal, table: Table
) -> None:
    journal.append({"id": 1})
    with largest_file(20):
        for number in (2, 3):
            with pytest.raises(OSError, match="File too large"):
                journal.append({"id": number, "comment": "x" * 100})
    assert "File too large" in str(journal.disk_error)
    journal.append({"id": 4})
    assert journal.disk_error is None
    assert journal.waiting == 2
    assert journal.flush()
    assert table.rows == [1, 4]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_vote_that_is_not_on_the_disk_is_refused_and_the_next_goes_to_another_file(
    journal: Journal, table: Table, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    journal.append({"id": 1})
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fails(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            journal.append({"id": 2})
    journal.append({"id": 3})
    assert len(segments_of(journal.folder)) == 2
    assert journal.waiting == 2
    assert journal.flush()
    assert table.rows == [1, 3]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_where_no_new_file_can_be_made_rows_go_to_postgres_from_the_open_one(
    journal: Journal, table: Table, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    journal.append({"id": 1})
    with monkeypatch.context() as broken:
        broken.setattr(module, "Segment", fails(number))
        assert journal.flush()
        journal.append({"id": 2})
        assert journal.flush()
        assert journal.waiting == 0
        assert stored(journal) == [], "its room is given back"
        assert journal.disk_error is not None
    journal.append({"id": 3})
    assert journal.flush()
    assert table.rows == [1, 2, 3]


def test_a_journal_starts_where_nothing_can_be_written(tmp_path: Path, table: Table) -> None:
    place = tmp_path / "j"
    place.write_text("a file in the folder's place")
    made = Journal(place, Sink(table.insert), 60, synced=True)
    made.start()
    assert made.disk_error is not None
    with pytest.raises(OSError, match="j"):
        made.append({"id": 1})
    assert not made.keep({"id": 2})
    assert made.lost == 1
    place.unlink()
    made.append({"id": 3})
    assert made.flush()
    assert table.rows == [3]
    made.close()


def test_lost_rows_are_counted_and_told_once(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with largest_file(0):
        for number in range(50):
            assert not journal.keep({"id": number})
    assert journal.lost == 50
    assert len([r for r in caplog.records if "rows lost" in r.getMessage()]) == 1
    assert journal.keep({"id": 51})


@pytest.mark.parametrize("rows", [0, 3])
def test_a_folder_removed_while_it_is_in_use_loses_nothing(
    journal: Journal, table: Table, rows: int
) -> None:
    for number in range(rows):
        journal.append({"id": number})
    rmtree(journal.folder)
    journal.append({"id": rows})
    assert stored(journal) == list(range(rows + 1))
    assert journal.flush()
    assert table.rows == list(range(rows + 1))
    journal.append({"id": 99})
    rmtree(journal.folder)
    assert journal.flush(), "with nothing appended since"
    assert table.rows[-1] == 99


def test_a_segment_removed_before_postgres_had_it_is_counted_as_lost(
    journal: Journal, table: Table
) -> None:
    table.away = DatabaseAway("away")
    journal.append({"id": 1}, {"id": 2})
    assert not journal.flush()
    table.away = None
    for path in segments_of(journal.folder):
        if path != journal._segment.path:  # type: ignore[union-attr]
            path.unlink()
    assert journal.flush()
    assert journal.lost == 2
    assert journal.waiting == 0


def test_rows_that_cannot_be_json_are_kept_all_the_same(journal: Journal, table: Table) -> None:
    row = {"id": "a", "error": "\ud800 \x00", "tokens": 10**30, "nested": [{"b\x00": float("inf")}]}
    assert journal.keep(row)
    (kept,) = list(journal.files)
    assert kept["error"] == "? \ufffd"
    assert kept["nested"] == [{"b\ufffd": None}]


# --- bad rows -------------------------------------------------------------------------------------


def bad_errors() -> list[Exception]:
    too_large = OperationalError("INSERT", {}, Exception("index row size exceeds maximum"))
    too_large.orig.pgcode = "54000"  # type: ignore[union-attr]
    mismatch = ProgrammingError("INSERT", {}, Exception("can't adapt type"))
    return [
        ValueError("A string literal cannot contain NUL"),
        KeyError("llm"),
        TypeError("no"),
        StatementError("a value is required", "INSERT", {}, None),
        mismatch,
        too_large,
    ]


@pytest.mark.parametrize("error", bad_errors(), ids=lambda e: type(e).__name__)
def test_a_bad_row_becomes_a_dead_letter_whatever_the_error(
    journal: Journal, table: Table, error: Exception
) -> None:
    table.bad[2] = error
    for number in range(4):
        journal.append({"id": number})
    assert journal.flush()
    assert table.rows == [0, 1, 3]
    assert journal.waiting == 0
    (letter,) = journal.dead_letters.read()
    assert letter.row == {"id": 2}
    assert type(error.__dict__.get("orig") or error).__name__ in letter.reason
    assert journal.last_error is None


def test_lines_that_are_no_rows_become_dead_letters(journal: Journal, table: Table) -> None:
    path = journal.folder / "9-1-00000001.jsonl"
    path.write_bytes(b'{"id": 1}\n[1, 2]\n"text"\n7\nnull\n{"id": 2\n{"id": 3, "x": "\\ud800"}\n')
    assert journal.flush()
    assert table.rows == [1, 3]
    assert len(journal.dead_letters.read()) == 5
    assert not path.exists()


def test_one_bad_row_of_ten_thousand_takes_few_round_trips(journal: Journal, table: Table) -> None:
    table.bad[7777] = ValueError("bad")
    journal.append(*({"id": number} for number in range(10_000)))
    assert journal.flush()
    assert len(set(table.rows)) == 9_999
    assert table.calls < 50


def test_where_the_table_cannot_be_written_no_row_is_blamed(journal: Journal, table: Table) -> None:
    table.check_fails = True
    table.away = ProgrammingError("INSERT", {}, Exception("no such table"))
    journal.append({"id": 1})
    for _ in range(20):
        assert not journal.flush()
    assert journal.waiting == 1
    assert journal.dead_letters.count() == 0
    table.check_fails, table.away = False, None
    assert journal.flush()
    assert table.rows == [1]


@pytest.mark.parametrize(
    "pgcode", ["08006", "57P01", "53300", "25006", "40P01", "42P01", "55P03", "42501"]
)
def test_codes_that_say_nothing_of_a_row(journal: Journal, table: Table, pgcode: str) -> None:
    error = OperationalError("INSERT", {}, Exception("away"))
    error.orig.pgcode = pgcode  # type: ignore[union-attr]
    table.away, table.check_fails = error, True
    journal.append({"id": 1})
    assert not journal.flush()
    assert journal.dead_letters.count() == 0


def test_a_row_that_breaks_the_connection_every_time_is_set_aside(
    journal: Journal, table: Table
) -> None:
    table.bad[2] = OperationalError("INSERT", {}, Exception("server closed the connection"))
    journal.append({"id": 1}, {"id": 2}, {"id": 3})
    for _ in range(PATIENCE):
        assert not journal.flush()
        assert journal.dead_letters.count() == 0
    assert journal.flush()
    assert table.rows == [1, 3]
    assert journal.dead_letters.count() == 1


def test_votes_that_wait_for_their_decisions_are_never_set_aside(
    journal: Journal, table: Table
) -> None:
    table.away = DatabaseAway("the decisions wait")
    journal.append({"id": 1})
    for _ in range(3 * PATIENCE):
        assert not journal.flush()
    assert journal.dead_letters.count() == 0
    table.away = OSError("no file")
    for _ in range(3 * PATIENCE):
        assert not journal.flush()
    assert journal.dead_letters.count() == 0


def test_a_dead_letter_that_cannot_be_written_stays_in_its_segment(
    journal: Journal, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.bad[1] = ValueError("bad")
    table.away = DatabaseAway("away")
    journal.append({"id": 1})
    assert not journal.flush()
    table.away = None
    journal.append({"id": 2})
    with monkeypatch.context() as full:
        full.setattr(journal.dead_letters, "add", fails(errno.ENOSPC))
        assert not journal.flush()
    assert table.rows == [2], "others go on meanwhile"
    assert journal.waiting == 1
    assert journal.flush()
    assert journal.dead_letters.count() == 1
    assert journal.waiting == 0


# --- what waits -----------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_counted_once(tmp_path: Path, table: Table) -> None:
    dead = Journal(tmp_path, Sink(table.insert), 60)
    table.away = DatabaseAway("away")
    for number in range(5):
        dead.append({"id": number})
    dead._ownership.lock.close()  # type: ignore[union-attr]  # as its death would
    first, second = (Journal(tmp_path, Sink(table.insert), 60) for _ in range(2))
    first.start()
    second.start()
    assert first.waiting + second.waiting == 5
    assert first.files.count() == second.files.count() == 5
    second.append({"id": 5})
    assert first.waiting + second.waiting == 6
    assert first.files.count() == 6
    table.away = None
    assert first.flush()
    assert second.flush()
    assert first.waiting + second.waiting == first.files.count() == 0
    assert sorted(table.rows) == list(range(6))
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_segments_without_a_lock_are_taken_over(tmp_path: Path, table: Table) -> None:
    (tmp_path / "1-5-00000001.jsonl").write_bytes(b'{"id": 1}\n')
    made = Journal(tmp_path, Sink(table.insert), 60)
    assert made.flush()
    assert table.rows == [1]
    made.close()


def test_segments_are_inserted_in_the_order_of_their_processes(
    tmp_path: Path, table: Table
) -> None:
    for name, number in (("999-20-00000001", 3), ("1000-5-00000002", 2), ("1000-5-00000001", 1)):
        (tmp_path / f"{name}.jsonl").write_bytes(orjson.dumps({"id": number}) + b"\n")
    made = Journal(tmp_path, Sink(table.insert), 60)
    assert made.flush()
    assert table.rows == [1, 2, 3]
    made.close()


def test_two_journals_of_one_process_id_and_one_clock_do_not_share_files(
    tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring.store.ownership.time.time_ns", lambda: 5)
    first, second = (Journal(tmp_path, Sink(table.insert), 60) for _ in range(2))
    first.append({"id": 1})
    second.append({"id": 2})
    assert len(segments_of(tmp_path)) == 2
    assert second.flush()
    assert table.rows == [2]
    first.close()
    second.close()


def test_an_outage_makes_few_segments_and_is_read_in_parts(
    journal: Journal, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring.store.segments.BATCH_ROWS", 10)
    table.away = DatabaseAway("away")
    for number in range(100):
        journal.append({"id": number})
        assert not journal.flush()
    assert len(segments_of(journal.folder)) == 2
    monkeypatch.setattr(module, "SEGMENT_BYTES", 100)
    for number in range(100, 120):
        journal.append({"id": number})
    assert max(path.stat().st_size for path in segments_of(journal.folder)[1:]) < 1200
    assert [row["id"] for row in journal.files.newest(30)] == list(range(90, 120))
    assert journal.files.find("id", "7") is None
    table.away = None
    assert journal.flush()
    assert table.rows == list(range(120))
    assert table.calls > 10


def test_what_was_inserted_of_a_segment_is_not_sent_again(
    journal: Journal, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitoring.store.segments.BATCH_ROWS", 2)
    table.bad[4] = DatabaseAway("away")
    for number in range(6):
        journal.append({"id": number})
    assert not journal.flush()
    assert table.rows == [0, 1, 2, 3]
    assert journal.waiting == 2
    table.bad.clear()
    calls = table.calls
    assert journal.flush()
    assert table.calls == calls + 1


def test_rows_set_aside_by_an_earlier_version_become_dead_letters(
    tmp_path: Path, table: Table
) -> None:
    (tmp_path / "1-2-00000001.refused").write_bytes(b'{"id": 1}\n')
    made = Journal(tmp_path, Sink(table.insert), 60)
    assert made.flush()
    assert [letter.row for letter in made.dead_letters.read()] == [{"id": 1}]
    assert list(tmp_path.glob("*.refused")) == []
    made.close()
