"""The local stack: every service as a child process, healthy before it is shown, gone at the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import httpx
import psutil

from infra.credentials import ensure_credentials
from infra.database import (
    connect,
    database_address,
    embedded_postgres,
    is_running,
    leave_embedded_postgres,
    ping,
)
from infra.guarded import prefect_origins
from infra.permissions import OTHERS, close_home
from infra.settings import Settings
from models.errors import SettingsError, StoreError

STATE_FILE: Final = "stack.json"
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 15.0
WATCH_SECONDS: Final = 1.0
# By what names a command takes over the login of the stack that runs, by server.
LOGINS: Final = {
    "MIXLLM_MLFLOW_URI": "MLFLOW_TRACKING_",
    "MIXLLM_PREFECT_API_URL": "PREFECT_API_AUTH_STRING",
}
JOINED: Final = ("MIXLLM_", *LOGINS.values())


@dataclass(frozen=True)
class Part:
    """One child process. health: an address that answers 2xx once it is up; a part without one is a
    client of the others, started when they are well."""

    name: str
    command: Sequence[str]
    url: str | None = None
    health: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


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
        environment=environment,
    )


def local_parts(settings: Settings, database: str) -> list[Part]:
    """MLflow, Prefect with the flows, and the service; those configured elsewhere are left out."""
    mlflow = settings.mlflow_uri or f"http://127.0.0.1:{settings.mlflow_port}"
    prefect = settings.prefect_api_url or f"http://127.0.0.1:{settings.prefect_port}/api"
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
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "mixllm",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "true",
    }
    parts = []
    if settings.mlflow_uri is None:
        command = python_module("infra.guarded", "mlflow")
        parts.append(Part("mlflow", command, mlflow, f"{mlflow}/health", shared))
    if settings.prefect_api_url is None:
        command = python_module("infra.guarded", "prefect")
        ui = prefect.removesuffix("/api")
        # The server itself must not take another server's address for its own.
        own = {k: v for k, v in shared.items() if k != "PREFECT_API_URL"}
        own["PREFECT_SERVER_API_AUTH_STRING"] = credentials.pair
        own["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(prefect_origins(settings))
        # Its pages ask the port that Prefect takes by default unless told.
        own["PREFECT_SERVER_UI_API_URL"] = prefect
        parts.append(Part("prefect", command, ui, f"{prefect}/health", own))
    evidently = f"http://127.0.0.1:{settings.evidently_port}"
    command = python_module("infra.guarded", "evidently")
    parts.append(Part("evidently", command, evidently, f"{evidently}/api/version", shared))
    parts.append(Part("flows", python_module("flows.serve", "--alone"), environment=shared))
    parts.append(service_part(settings, shared))
    return parts


class Stack:
    """Starts parts in order, watches them, restarts what dies, stops them all.

    Output of each goes to ``home / logs / <name>.log``.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.say = say
        self.parts: list[Part] = []
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self._postgres: Any = None
        self.database = ""

    def start(self, make_parts: Callable[[Settings, str], list[Part]]) -> None:
        """Start Postgres, then every part. Raises SettingsError, StoreError."""
        close_home(self.settings.home)
        configured = self.settings.database()
        if configured is None:
            self._postgres = embedded_postgres(self.settings.home)
        self.database = database_address(configured, self.settings.home)
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
            self._wait(part, part.health or "")
            self.say(f"{part.name:<9} {part.url}")
        for part in clients:
            self._spawn(part)
            self.say(f"{part.name:<9} running")
        self._write_state()

    def _spawn(self, part: Part) -> None:
        logs = self.settings.home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = (logs / f"{part.name}.log").open("ab")
        self._logs.append(log)
        self._children[part.name] = subprocess.Popen(
            part.command,
            env={**os.environ, **part.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            umask=OTHERS,
            start_new_session=True,  # one group a part: Ctrl-C is ours to pass on
        )

    def _wait(self, part: Part, health: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._children[part.name].poll() is not None:
                raise StoreError(f"{part.name} ended at its start:\n{self._tail(part.name)}")
            if answers(health):
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{part.name} is not healthy after {START_SECONDS:.0f} s; {self._tail(part.name)}"
                )
            time.sleep(0.2)

    def _tail(self, name: str, lines: int = 12) -> str:
        text = (self.settings.home / "logs" / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def watch(self, stop: threading.Event) -> None:
        """Until stop is set: restart what died, Postgres included."""
        while not stop.wait(WATCH_SECONDS):
            if self._postgres is not None and not is_running(self._postgres):
                self.say("postgres  was gone, starts again")
                try:
                    embedded_postgres(self.settings.home)
                except Exception as error:  # the next round tries again
                    self.say(f"postgres  does not start: {error}")
            for part in self.parts:
                code = self._children[part.name].poll()
                if code is not None:
                    self.say(f"{part.name:<9} ended with {code}, starts again")
                    self._spawn(part)
                    self._write_state()

    def stop(self) -> None:
        """Stop every part and everything it started; nothing is left behind."""
        family: list[psutil.Process] = []
        for child in self._children.values():
            try:
                process = psutil.Process(child.pid)
                family += [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        for child in reversed(self._children.values()):
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for child in self._children.values():
            child.wait()
        if self._postgres is not None:
            leave_embedded_postgres(self._postgres)
        for log in self._logs:
            log.close()
        (self.settings.home / STATE_FILE).unlink(missing_ok=True)

    def _write_state(self) -> None:
        environment = dict(self.parts[-1].environment) if self.parts else {}
        shown = {k: v for k, v in environment.items() if k.startswith(JOINED)}
        state = {
            "pid": os.getpid(),
            "environment": shown,
            "children": {name: child.pid for name, child in self._children.items()},
        }
        path = self.settings.home / STATE_FILE
        path.touch(mode=0o600)  # it holds the credentials
        path.write_text(json.dumps(state, indent=2))


def answers(url: str) -> bool:
    """Whether a GET is answered with 2xx."""
    try:
        return httpx.get(url, timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def free_port(part: Part) -> None:
    """Raises SettingsError when a part's port is taken."""
    if part.health is None:
        return
    url = httpx.URL(part.health)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((url.host, url.port or 80))
        except OSError as error:
            variable = (
                "MIXLLM_PORT" if part.name == "service" else f"MIXLLM_{part.name.upper()}_PORT"
            )
            raise SettingsError(
                f"port {url.port} for {part.name} is taken ({error.strerror}); "
                f"stop what uses it, or set {variable}"
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


def running_stack(home: Path) -> dict[str, Any] | None:
    """The state of the stack that runs on this home, None where none does."""
    try:
        state: dict[str, Any] = json.loads((home / STATE_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return state if psutil.pid_exists(state["pid"]) else None


def join_running_stack(settings: Settings) -> bool:
    """Point this process at the stack that runs, unless told otherwise; whether one does."""
    state = running_stack(settings.home)
    if state is None:
        return False
    settings_there = {k: v for k, v in state["environment"].items() if k.startswith("MIXLLM_")}
    for name, value in settings_there.items():
        os.environ.setdefault(name, value)
    # Credentials are for the stack's own servers; who was told of others keeps what he has.
    for server, login in LOGINS.items():
        if os.environ.get(server) == settings_there.get(server):
            ours = {k: v for k, v in state["environment"].items() if k.startswith(login)}
            os.environ.update(ours)
    return True
