"""The parts of the local stack, each a child process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.addresses import LOOPBACK, http_url, sqlite_url
from infra.evidently_workspace import PagesCheck
from infra.guard.credentials import ensure_credentials
from infra.guard.servers import prefect_origins
from infra.settings import Settings


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
