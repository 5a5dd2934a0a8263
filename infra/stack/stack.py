"""The local stack: every service as a child process, healthy before it is shown, gone at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

import httpx
import psutil

from infra.addresses import (
    answers,
    check_port,
)
from infra.database import connect, database_address, ping
from infra.embedded_postgres import (
    EmbeddedPostgres,
    embedded_postgres,
    leave_embedded_postgres,
)
from infra.file_lock import FileLock
from infra.home import ready_home
from infra.permissions import OTHERS, close_home
from infra.processes import STOP_SECONDS, TOKEN_VARIABLE, ProcessIdentity, end, family
from infra.proxy_bypass import bypass_proxy
from infra.settings import Settings
from infra.stack.join import JOINED
from infra.stack.parts import Part
from infra.stack.record import (
    LOCK_FILE,
    STATE_FILE,
    StackRecord,
    read_record,
    running_stack,
    survivors,
)
from models.errors import SettingsError, StoreError

log = logging.getLogger("mixllm.stack")

START_SECONDS: Final = 300.0
WATCH_SECONDS: Final = 1.0
CHECK_SECONDS: Final = 15.0


class Stack:
    """Starts parts in order, watches them, restarts what dies, stops them all.

    One stack runs on a home. Output of each part goes to ``home / logs / <name>.log``.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.say = say
        self.parts: list[Part] = []
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self._lock = FileLock(settings.home / LOCK_FILE)
        self._stop = threading.Event()
        self._record: StackRecord | None = None
        self._postgres: EmbeddedPostgres | None = None
        self.database = ""

    def start(
        self,
        make_parts: Callable[[Settings, str], list[Part]],
        stop: threading.Event | None = None,
    ) -> None:
        """Start Postgres, then every part; what a killed stack left behind is stopped first.

        stop: ends the start early, once it is set.
        Raises SettingsError, StoreError; nothing runs then.
        """
        self._stop = stop or threading.Event()
        try:
            self._start(make_parts)
        except BaseException:
            self.stop()
            raise

    def _start(self, make_parts: Callable[[Settings, str], list[Part]]) -> None:
        home = ready_home(self.settings.home)
        if not self._lock.take():
            record = running_stack(home)
            who = f" (process {record.supervisor.pid})" if record is not None else ""
            raise SettingsError(
                f"a stack runs on {home} already{who}; stop it, or set MIXLLM_HOME to another folder"
            )
        close_home(home)
        stop_survivors(home, self.say)
        self._record = StackRecord(ProcessIdentity.of(os.getpid()), uuid.uuid4().hex)
        self._record.write(home)
        configured = self.settings.database()
        if configured is None:
            self._postgres = embedded_postgres(home)
        self.database = database_address(configured, home)
        ping(connect(self.database))
        self.say(f"postgres  {'embedded' if configured is None else 'configured'}, answers")
        self.parts = make_parts(self.settings, self.database)
        for part in self.parts:
            free_port(part)
        servers = [part for part in self.parts if part.health is not None]
        clients = [part for part in self.parts if part.health is None]
        for part in servers:
            self._spawn(part)
        for part in servers:
            if not self._wait(part, part.health or ""):
                return
            self.say(f"{part.name:<9} {part.url}")
        for part in clients:
            self._spawn(part)
            self.say(f"{part.name:<9} running")
        environment = dict(self.parts[-1].environment) if self.parts else {}
        self._note(environment={k: v for k, v in environment.items() if k.startswith(JOINED)})

    def _spawn(self, part: Part) -> None:
        assert self._record is not None
        logs = self.settings.home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = (logs / f"{part.name}.log").open("ab")
        self._logs.append(log)
        environment = {**os.environ, **part.environment, TOKEN_VARIABLE: self._record.token}
        bypass_proxy(environment)
        child = subprocess.Popen(
            part.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            umask=OTHERS,
            start_new_session=True,  # one group a part: Ctrl-C is ours to pass on
        )
        self._children[part.name] = child
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
            children = {**self._record.children, part.name: ProcessIdentity.of(child.pid)}
            self._note(children=children)

    def _note(self, **changes: Any) -> None:
        """Write down what changed, at once: the record is all that is left after a kill."""
        assert self._record is not None
        self._record = replace(self._record, **changes)
        self._record.write(self.settings.home)

    def _wait(self, part: Part, health: str) -> bool:
        """Until a part is healthy; False where the start is to end early. Raises StoreError."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._children[part.name].poll() is not None:
                raise StoreError(f"{part.name} ended at its start:\n{self._tail(part.name)}")
            if answers(health):
                return True
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{part.name} is not healthy after {START_SECONDS:.0f} s; {self._tail(part.name)}"
                )
            if self._stop.wait(0.2):
                return False

    def _tail(self, name: str, lines: int = 12) -> str:
        text = (self.settings.home / "logs" / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def watch(self, stop: threading.Event) -> None:
        """Until stop is set: restart what died or does its work no more, Postgres included."""
        checked = time.monotonic()
        while not stop.wait(WATCH_SECONDS):
            if self._postgres is not None and not self._postgres.is_running():
                self.say("postgres  was gone, starts again")
                try:
                    self._postgres = embedded_postgres(self.settings.home)
                except Exception as error:  # noqa: BLE001 - the supervisor must not die; it tries again
                    self.say(f"postgres  does not start: {error}")
            for part in self.parts:
                code = self._children[part.name].poll()
                if code is not None:
                    self.say(f"{part.name:<9} ended with {code}, starts again")
                    self._spawn(part)
            if time.monotonic() - checked > CHECK_SECONDS:
                self._check()
                checked = time.monotonic()

    def _check(self) -> None:
        """End the parts that have a problem; the watch starts them again."""
        for part in self.parts:
            problem = part.problem() if part.problem is not None else None
            if problem is not None:
                self.say(f"{part.name:<9} {problem}, is stopped")
                child = self._children[part.name]
                child.terminate()
                try:
                    child.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()

    def stop(self) -> None:
        """Stop every part and everything it started; nothing is left behind.

        Who works with the others stops first: it would log their end as a failure.
        """
        if self._record is not None:
            users = {part.name for part in self.parts if part.uses_servers}
            children = [c for name, c in self._record.children.items() if name in users]
            end(lambda: family(children))
            end(self._record.members)
        for child in self._children.values():
            child.wait()
        self._children.clear()
        if self._postgres is not None:
            leave_embedded_postgres(self._postgres)
            self._postgres = None
        for log in self._logs:
            log.close()
        self._logs.clear()
        if self._record is not None:
            (self.settings.home / STATE_FILE).unlink(missing_ok=True)
            self._record = None
        self._lock.release()


def stop_survivors(home: Path, say: Callable[[str], None]) -> None:
    """Stop what is left of a stack whose supervisor was killed, and nothing else."""
    record = read_record(home)
    if record is None or not survivors(home):
        return
    count = end(record.members)
    say(f"stopped {count} processes of a stack that was killed")


def free_port(part: Part) -> None:
    """Raises SettingsError when a part's port is taken."""
    if part.health is None:
        return
    url = httpx.URL(part.health)
    port = url.port or 80
    try:
        check_port(part.host or url.host, port)
    except OSError as error:
        name = "MIXLLM_PORT" if part.name == "service" else f"MIXLLM_{part.name.upper()}_PORT"
        raise SettingsError(
            f"port {port} for {part.name} is taken ({error.strerror}); "
            f"stop what uses it, or set {name}"
        ) from error


def wait_ready(settings: Settings) -> None:
    """Until the service answers from a release. Raises StoreError."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(f"{settings.service_url}/readyz"):
        if time.monotonic() > deadline:
            log = settings.home / "logs" / "service.log"
            raise StoreError(f"the service is not ready after {START_SECONDS:.0f} s; see {log}")
        time.sleep(0.05)
