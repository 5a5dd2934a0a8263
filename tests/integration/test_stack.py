"""The stack's own behaviour, with small parts in place of the services."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from infra.addresses import free_loopback_port
from infra.embedded_postgres import EmbeddedPostgres, embedded_postgres, leave_embedded_postgres
from infra.processes import TOKEN_VARIABLE, ProcessIdentity
from infra.settings import Settings
from infra.stack.parts import Part, local_parts
from infra.stack.record import STATE_FILE, read_record, running_stack, survivors
from infra.stack.stack import Stack
from models.errors import SettingsError
from stacks import is_served, lines_until, server_part, supervise, with_token


@contextmanager
def supervised(home: Path, database: str | None, *ports: int) -> Iterator[subprocess.Popen[str]]:
    """A running stack; whatever it leaves is gone afterwards."""
    process = supervise(home, database, *ports)
    try:
        said = lines_until(process, "ready")
        assert said[-1] == "ready", said
        yield process
    finally:
        record = read_record(home)
        process.kill()
        process.communicate()
        for left in with_token(record.token) if record is not None else []:
            left.kill()


def test_a_new_stack_stops_what_a_killed_one_left_and_takes_its_ports(
    tmp_path: Path, postgres: str
) -> None:
    ports = [free_loopback_port(), free_loopback_port()]
    with supervised(tmp_path, postgres, *ports) as killed:
        killed.kill()
        killed.wait()
        record = read_record(tmp_path)
        assert record is not None
        left = with_token(record.token)
        assert len(left) == 4, "two servers, and a process that each started"
        assert all(is_served(port) for port in ports)
        assert running_stack(tmp_path) is None
        assert set(survivors(tmp_path)) == set(left)
        with supervised(tmp_path, postgres, *ports) as second:
            assert second.poll() is None
            _, alive = psutil.wait_procs(left, timeout=5)
            assert alive == []
            assert all(is_served(port) for port in ports)
            assert running_stack(tmp_path) is not None
            assert survivors(tmp_path) == [], "they have a living supervisor"


def test_what_a_dead_part_left_is_known_by_its_token(tmp_path: Path, postgres: str) -> None:
    port = free_loopback_port()
    with supervised(tmp_path, postgres, port) as killed:
        record = read_record(tmp_path)
        assert record is not None
        killed.kill()
        killed.wait()
        psutil.Process(record.children["service"].pid).kill()
        deadline = time.monotonic() + 5
        while len(survivors(tmp_path)) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (left,) = survivors(tmp_path)
        stack = Stack(Settings(home=tmp_path, database_url=SecretStr(postgres)), lambda line: None)
        stack.start(lambda *_: [])
        stack.stop()
        assert not left.is_running()


def test_a_second_stack_is_refused_and_leaves_the_first_alone(
    tmp_path: Path, postgres: str
) -> None:
    port = free_loopback_port()
    with supervised(tmp_path, postgres, port) as first:
        before = (tmp_path / STATE_FILE).read_text()
        stack = Stack(Settings(home=tmp_path, database_url=SecretStr(postgres)), lambda line: None)
        with pytest.raises(SettingsError, match=rf"runs on .* already \(process {first.pid}\)"):
            stack.start(lambda *_: [server_part(free_loopback_port())])
        assert (tmp_path / STATE_FILE).read_text() == before
        assert is_served(port)


def test_a_process_that_has_a_recorded_pid_is_not_touched(tmp_path: Path, postgres: str) -> None:
    """A pid repeats: in containers at every start."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        known = ProcessIdentity.of(bystander.pid).dump()
        for stranger in ({"started": known["started"] - 1}, {"boot": "another"}):
            record = {**known, **stranger, "token": "t", "environment": {}, "children": {}}
            record["children"] = {"service": {**known, **stranger}}
            (tmp_path / STATE_FILE).write_text(json.dumps(record))
            assert running_stack(tmp_path) is None
            stack = Stack(
                Settings(home=tmp_path, database_url=SecretStr(postgres)), lambda line: None
            )
            stack.start(lambda *_: [])
            stack.stop()
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_stack_never_stops_the_process_it_runs_in(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``mixllm demo`` may be started from a shell that some other stack started."""
    identity = ProcessIdentity.of(os.getppid()).dump()
    gone = {**identity, "started": identity["started"] - 1}
    record = {**gone, "token": "t", "environment": {}, "children": {"service": identity}}
    (tmp_path / STATE_FILE).write_text(json.dumps(record))
    monkeypatch.setenv(TOKEN_VARIABLE, "t")
    assert psutil.Process(os.getpid()) not in survivors(tmp_path)
    assert psutil.Process(os.getppid()) not in survivors(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 1}', '{"pid": "x"}', "null"])
def test_a_record_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    assert running_stack(tmp_path) is None
    assert survivors(tmp_path) == []


def test_a_start_that_fails_leaves_nothing(tmp_path: Path, postgres: str) -> None:
    port, taken = free_loopback_port(), free_loopback_port()
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", str(taken), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as foreign:
        try:
            deadline = time.monotonic() + 20
            while not is_served(taken):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            stack = Stack(
                Settings(home=tmp_path, database_url=SecretStr(postgres)), lambda line: None
            )
            with pytest.raises(SettingsError, match=f"port {taken} for mlflow is taken"):
                stack.start(lambda *_: [server_part(port), server_part(taken, "mlflow")])
            assert not is_served(port)
            assert not (tmp_path / STATE_FILE).exists()
            assert is_served(taken), "what holds the port is somebody else's"
        finally:
            foreign.kill()


def test_postgres_stays_up_under_parts_that_survived_a_kill(tmp_path: Path) -> None:
    port = free_loopback_port()
    with supervised(tmp_path, None, port) as killed:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        server = embedded_postgres(tmp_path)  # as any command does
        leave_embedded_postgres(server)
        assert EmbeddedPostgres(tmp_path).is_running()
        stack = Stack(Settings(home=tmp_path), lambda line: None)
        stack.start(lambda *_: [])
        assert not is_served(port)
        stack.stop()
        assert not EmbeddedPostgres(tmp_path).is_running()


# Asks the server when it is told to stop, and writes down whether it answered.
USER = """
import signal, sys, time, urllib.request
def stop(*_):
    try:
        time.sleep(0.3)  # servers that were told to stop at the same time are gone by now
        said = urllib.request.urlopen(sys.argv[1]).status
    except OSError as error:
        said = error
    open(sys.argv[2], "w").write(str(said))
    sys.exit()
signal.signal(signal.SIGTERM, stop)
open(sys.argv[3], "w").close()
while True:
    time.sleep(1)
"""


def test_who_uses_the_servers_stops_before_them(tmp_path: Path, postgres: str) -> None:
    """Its log would be full of tracebacks."""
    server = server_part(free_loopback_port(), "mlflow")
    said, started = tmp_path / "said", tmp_path / "started"
    command = [sys.executable, "-c", USER, str(server.url), str(said), str(started)]
    user = Part("flows", command, uses_servers=True)
    stack = Stack(
        Settings(home=tmp_path / "home", database_url=SecretStr(postgres)), lambda line: None
    )
    try:
        stack.start(lambda *_: [server, user])
        deadline = time.monotonic() + 20
        while not started.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        stack.stop()
    assert said.read_text() == "200"


def test_flows_and_the_service_are_known_to_use_the_servers(tmp_path: Path) -> None:
    parts = local_parts(Settings(home=tmp_path), "postgresql://nobody@127.0.0.1/none")
    assert {part.name for part in parts if part.uses_servers} == {"flows", "service"}
