"""The local stack: every service as a child process, healthy before it is shown, gone at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final

import httpx
import psutil

from infra.addresses import (
    LOOPBACK,
    check_port,
    http_url,
    request_directly,
    sqlite_url,
)
from infra.database import connect, database_address, ping
from infra.embedded_postgres import (
    EmbeddedPostgres,
    embedded_postgres,
    leave_embedded_postgres,
)
from infra.evidently_workspace import PagesCheck
from infra.file_lock import FileLock
from infra.guard.credentials import ensure_credentials
from infra.guard.servers import prefect_origins
from infra.home import ready_home
from infra.permissions import OTHERS, close_home
from infra.processes import STOP_SECONDS, TOKEN_VARIABLE, ProcessIdentity, end, family
from infra.proxy_bypass import bypass_proxy
from infra.settings import Settings
from infra.stack_record import (
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
# By what names a command takes over the login of the stack that runs, by server.
LOGINS: Final = {
    "MIXLLM_MLFLOW_URI": "MLFLOW_TRACKING_",
    "MIXLLM_PREFECT_API_URL": "PREFECT_API_AUTH_STRING",
}
JOINED: Final = ("MIXLLM_", *LOGINS.values())
CHECK_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Part:
    """One child process.

    health: an address that answers 2xx once it is up; a part without one is a client of the others,
        started when they are well.
    host: what it listens on, where that is not the host of that address.
    problem: what is wrong with a part that runs, if anything; it is restarted then.
    uses_servers: whether it works with the other parts all the time; it stops before they do.
    """

    name: str
    command: Sequence[str]
    url: str | None = None
    health: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None
    problem: Callable[[], str | None] | None = None
    uses_servers: bool = False


def python_module(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def service_part(settings: Settings, environment: Mapping[str, str]) -> Part:
    """The BentoML service."""
    return Part(
        "service",
        python_module("bentoml", "serve", "serving.service:MixLLM"),
        url=f"{settings.service_url}/v1/docs",
        # Alive, not ready: a service without a release is up, and says what it waits for.
        health=f"{settings.service_url}/livez",
        host=settings.host,
        environment=environment,
        uses_servers=True,
    )


def prefect_home(home: Path) -> dict[str, str]:
    """Where Prefect keeps what it keeps, as it reads it; the folder is made."""
    folder = home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite_url(folder / "prefect.db", "sqlite+aiosqlite")
    return {"PREFECT_HOME": str(folder), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}


def local_parts(settings: Settings, database: str) -> list[Part]:
    """MLflow, Prefect with the flows, and the service; those configured elsewhere are left out."""
    mlflow = settings.mlflow_uri or http_url(LOOPBACK, settings.mlflow_port)
    prefect = settings.prefect_api_url or http_url(LOOPBACK, settings.prefect_port, "/api")
    credentials = ensure_credentials(settings.home)
    shared = {
        # Ours go to our own servers alone; for others the user's stay.
        **(credentials.of_mlflow if settings.mlflow_uri is None else {}),
        **(credentials.of_prefect if settings.prefect_api_url is None else {}),
        "MIXLLM_HOME": str(settings.home),
        "MIXLLM_MLFLOW_URI": mlflow,
        "MIXLLM_PREFECT_API_URL": prefect,
        "MIXLLM_DATABASE_URL": database,
        "MIXLLM_MLFLOW_PORT": str(settings.mlflow_port),
        "MIXLLM_PREFECT_PORT": str(settings.prefect_port),
        "MIXLLM_EVIDENTLY_PORT": str(settings.evidently_port),
        "PREFECT_API_URL": prefect,
        **prefect_home(settings.home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "mixllm",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "true",
    }
    parts = []
    if settings.mlflow_uri is None:
        command = python_module("infra.guard.servers", "mlflow")
        parts.append(Part("mlflow", command, mlflow, f"{mlflow}/health", shared))
    if settings.prefect_api_url is None:
        command = python_module("infra.guard.servers", "prefect")
        ui = prefect.removesuffix("/api")
        # The server itself must not take another server's address for its own.
        own = {k: v for k, v in shared.items() if k != "PREFECT_API_URL"}
        own["PREFECT_SERVER_API_AUTH_STRING"] = credentials.pair
        own["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(prefect_origins(settings))
        # Its pages ask the port that Prefect takes by default unless told.
        own["PREFECT_SERVER_UI_API_URL"] = prefect
        parts.append(Part("prefect", command, ui, f"{prefect}/health", own))
    evidently = http_url(LOOPBACK, settings.evidently_port)
    workspace = settings.home / "evidently"
    command = python_module("infra.guard.servers", "evidently")
    pages = PagesCheck(workspace, evidently, (credentials.user, credentials.password))
    health = f"{evidently}/api/version"
    parts.append(Part("evidently", command, evidently, health, shared, problem=pages.problem))
    flows = python_module("flows.serve", "--alone")
    parts.append(Part("flows", flows, environment=shared, uses_servers=True))
    parts.append(service_part(settings, shared))
    return parts


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


def answers(url: str) -> bool:
    """Whether a GET is answered with 2xx."""
    try:
        return request_directly("GET", url, timeout=2.0).is_success
    except httpx.HTTPError:
        return False


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


def service_alone(**environment: str) -> Callable[[Settings, str], list[Part]]:
    """What starts the service without the rest of the stack. environment: more of its variables."""

    def parts(settings: Settings, database: str) -> list[Part]:
        own = {
            "MIXLLM_HOME": str(settings.home),
            "MIXLLM_DATABASE_URL": database,
            "MIXLLM_PORT": str(settings.port),
            "BENTOML_DO_NOT_TRACK": "true",
        }
        return [service_part(settings, {**own, **environment})]

    return parts


def wait_ready(settings: Settings) -> None:
    """Until the service answers from a release. Raises StoreError."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(f"{settings.service_url}/readyz"):
        if time.monotonic() > deadline:
            log = settings.home / "logs" / "service.log"
            raise StoreError(f"the service is not ready after {START_SECONDS:.0f} s; see {log}")
        time.sleep(0.05)


def free_loopback_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def join_running_stack(settings: Settings) -> bool:
    """Point this process at the stack that runs, unless told otherwise; whether one does."""
    record = running_stack(settings.home)
    if record is None:
        return False
    settings_there = {k: v for k, v in record.environment.items() if k.startswith("MIXLLM_")}
    for name, value in settings_there.items():
        os.environ.setdefault(name, value)
    # Credentials are for the stack's own servers; who was told of others keeps what he has.
    for server, login in LOGINS.items():
        if os.environ.get(server) == settings_there.get(server):
            ours = {k: v for k, v in record.environment.items() if k.startswith(login)}
            os.environ.update(ours)
    return True
