import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from infra import database
from infra.database import connect, ping
from infra.embedded_postgres import EmbeddedPostgres
from infra.settings import Settings
from monitoring.store.answers import insert_answers
from monitoring.store.keys import read_access
from monitoring.store.schema import open_store

JOIN = """
import sys, time
from pathlib import Path
from infra.embedded_postgres import embedded_postgres, leave_embedded_postgres
server = embedded_postgres(Path(sys.argv[1]))
print(server.get_pid(), flush=True)
if sys.argv[2] == "leave":
    leave_embedded_postgres(server)
else:
    time.sleep(60)
"""


def join(home: Path, then: str) -> tuple[subprocess.Popen[str], int]:
    """A process that joins the embedded server of a home, and the server's process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOIN, str(home), then], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    server = int(process.stdout.readline())
    return process, server


def ends(pid: int) -> bool:
    """Whether a process is gone within ten seconds, or waits only to be reaped."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_killed_process_does_not_keep_the_server_up_for_ever(tmp_path: Path) -> None:
    killed, first = join(tmp_path, "stay")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert psutil.pid_exists(first), "the server itself outlives who joined it"
    last, second = join(tmp_path, "leave")
    last.communicate(timeout=30)
    assert second == first
    assert ends(first)


def test_a_living_process_keeps_the_server(tmp_path: Path) -> None:
    staying, first = join(tmp_path, "stay")
    leaving, second = join(tmp_path, "leave")
    leaving.communicate(timeout=30)
    assert second == first
    assert psutil.pid_exists(first)
    staying.terminate()
    staying.communicate()
    last, _ = join(tmp_path, "leave")
    last.communicate(timeout=30)
    assert ends(first)


@pytest.fixture
def impatient(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine as a service has it, with its seconds cut short."""
    for name, seconds in (("STATEMENT_SECONDS", 0.4), ("PATIENCE_SECONDS", 0.6)):
        monkeypatch.setattr(database, name, seconds)
    made = connect(empty_database, impatient=True)
    yield made
    made.dispose()


def test_a_statement_that_takes_too_long_is_ended(impatient: Engine) -> None:
    with pytest.raises(OperationalError, match="statement timeout"), impatient.connect() as one:
        one.execute(text("SELECT pg_sleep(60)"))
    with impatient.connect() as one:
        assert one.execute(text("SELECT 1")).scalar_one() == 1


def test_locked_rows_are_not_waited_for(impatient: Engine) -> None:
    with impatient.begin() as one:
        one.execute(text("CREATE TABLE locked (id int)"))
        one.execute(text("INSERT INTO locked VALUES (1)"))
    with impatient.begin() as one, impatient.connect() as other:
        one.execute(text("SELECT * FROM locked FOR UPDATE"))
        with pytest.raises(OperationalError, match="statement timeout"):
            other.execute(text("SELECT * FROM locked FOR UPDATE"))


def test_a_server_that_hangs_is_given_up(impatient: Engine, machine_home: Path) -> None:
    with impatient.connect() as one:
        backend = psutil.Process(one.execute(text("SELECT pg_backend_pid()")).scalar_one())
    server = psutil.Process(int((machine_home / "postgres/postmaster.pid").read_text().split()[0]))
    for process in (backend, server):  # neither old connections nor new ones are answered
        process.suspend()
    try:
        begun = time.monotonic()
        with pytest.raises(OperationalError, match=r"no answer for 0\.6 s"):
            impatient.connect()
        assert time.monotonic() - begun < 10 * database.PATIENCE_SECONDS
    finally:
        for process in (server, backend):
            process.resume()
    with impatient.connect() as one:
        assert one.execute(text("SELECT 1")).scalar_one() == 1


def test_a_patient_connection_waits(empty_database: str, impatient: Engine) -> None:
    """What flows ask may take longer, in the same process too."""
    patient = connect(empty_database)
    with patient.connect() as one:
        assert one.execute(text("SELECT 1 FROM pg_sleep(0.9)")).scalar_one() == 1
    patient.dispose()


def test_a_server_without_a_connection_left_says_so_at_once(
    impatient: Engine, empty_database: str
) -> None:
    with impatient.begin() as one:
        one.execute(text("CREATE ROLE single LOGIN CONNECTION LIMIT 1"))
    address = impatient.url.set(username="single").render_as_string(hide_password=False)
    single = connect(address, impatient=True)
    try:
        with single.connect():
            begun = time.monotonic()
            with pytest.raises(OperationalError, match="too many connections"):
                single.connect()
            assert time.monotonic() - begun < database.STATEMENT_SECONDS
    finally:
        single.dispose()
        with impatient.begin() as one:
            one.execute(text("DROP ROLE single"))


def test_a_read_only_database_is_opened_and_read(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=SecretStr(empty_database))
    open_store(settings).dispose()
    admin = connect(empty_database)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as one:
        name = admin.url.database
        one.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    admin.dispose()
    store = open_store(settings, impatient=True)
    assert read_access(store).required is None
    row: dict[str, Any] = {
        "decision_id": str(UUID(int=1)),
        "finished_at": "2026-01-01T00:00:00+00:00",
    }
    nothing = dict.fromkeys(("llm", "error", "prompt_tokens", "response_tokens", "cost_usd"))
    row |= {**nothing, "first_token_seconds": None, "seconds": 1.0, "streamed": False}
    row |= {"status": "failed", "attempts": [{}], "key_id": None}
    with pytest.raises(SQLAlchemyError, match="read-only") as caught:
        insert_answers(store, [row])
    # Which says nothing against the row: it waits in its journal.
    assert not isinstance(caught.value, DataError | IntegrityError)
    store.dispose()


def test_an_error_does_not_show_what_was_to_be_written(engine: Engine) -> None:
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.execute(text("SELECT CAST(:comment AS INTEGER)"), {"comment": "my secret"})
    assert "my secret" not in str(caught.value).partition("[SQL")[2]
    assert "parameters hidden" in str(caught.value)


@pytest.mark.parametrize("name", ["a b,c'd\"e%20?#$(exit 1);ü", "x" * 120], ids=["odd", "long"])
def test_a_server_starts_in_every_folder(tmp_path: Path, name: str) -> None:
    server = EmbeddedPostgres(tmp_path / name)
    server.join()
    try:
        ping(connect(server.url().render_as_string(hide_password=False)))
    finally:
        server.leave()
    assert not server.is_running()


def test_a_process_that_has_the_dead_servers_pid_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        (tmp_path / "postgres").mkdir()
        lines = [str(bystander.pid), "/x", "1", "5432", "/x", "", "", "ready"]
        for text in ("\n".join(lines), "", "garbage"):
            (tmp_path / "postgres" / "postmaster.pid").write_text(text)
            server = EmbeddedPostgres(tmp_path)
            assert not server.is_running()
            server._stop()
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user, Postgres runs as that user")
def test_postgres_needs_no_way_through_the_home(machine_home: Path, postgres: str) -> None:
    """Its account works in a folder of a home that is closed to it, checkpoints included."""
    before = machine_home.stat().st_mode
    machine_home.chmod(0o700)
    try:
        engine = connect(postgres)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))
            assert connection.execute(text("SHOW data_directory")).scalar() == "/proc/self/cwd"
        engine.dispose()
    finally:
        machine_home.chmod(before)
