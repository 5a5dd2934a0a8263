"""The stack's servers behind the guard.

python -m infra.guard.servers mlflow | prefect | evidently
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from infra.addresses import LOOPBACK, http_url
from infra.evidently_workspace import set_broken_aside
from infra.guard.credentials import Credentials, read_credentials
from infra.guard.guard import App, Guard, Names
from infra.permissions import private_umask
from infra.registry.mlflow_store import opening
from infra.settings import Settings, read_settings
from models.errors import MixLLMError

log = logging.getLogger("mixllm.guarded")


def mlflow(settings: Settings, guard: Callable[..., App]) -> App:
    """MLflow's server with its pages."""
    # What the guard does, it would do by names of its own; and it knows no jobs that we run.
    os.environ["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] = "true"
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow import server
    from mlflow.server.handlers import initialize_backend_stores

    artifacts = settings.home / "registry" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    store = settings.model_copy(update={"mlflow_uri": None}).registry_uri
    os.environ[server.BACKEND_STORE_URI_ENV_VAR] = store
    os.environ[server.REGISTRY_STORE_URI_ENV_VAR] = store
    os.environ[server.ARTIFACT_ROOT_ENV_VAR] = artifacts.as_uri()
    with opening(store, artifacts.parent):
        initialize_backend_stores(store, store, artifacts.as_uri())
    from mlflow.server.fastapi_app import app

    return guard(app, open_paths=("/health",))


def prefect(settings: Settings, guard: Callable[..., App]) -> App:
    """Prefect's server with its pages. It asks for the login itself, in its pages and on websockets."""
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    if get_current_settings().server.api.auth_string is None:
        raise MixLLMError("PREFECT_SERVER_API_AUTH_STRING is not set: anybody could run flows")
    return guard(create_app(final=True), credentials=None, origins=prefect_origins(settings))


def prefect_origins(settings: Settings) -> list[str]:
    """Where Prefect's pages are open. They always ask the first address, under whatever name they
    were opened; the login is in the page, so that no other page brings it along."""
    return [http_url(name, settings.prefect_port) for name in (LOOPBACK, "localhost")]


def evidently(settings: Settings, guard: Callable[..., App]) -> App:
    """Evidently's pages."""
    from evidently.ui.service.app import create_app, get_config

    workspace = settings.home / "evidently"
    workspace.mkdir(parents=True, exist_ok=True)
    for broken in set_broken_aside(workspace):
        log.warning(
            "a file is half written, or of another version of Evidently; it is now %s", broken
        )
    config = get_config(host=LOOPBACK, port=settings.evidently_port, workspace=str(workspace))
    return guard(create_app(config), open_paths=("/api/version",))


PARTS: Final = {"mlflow": mlflow, "prefect": prefect, "evidently": evidently}


def guarded(name: str, settings: Settings, credentials: Credentials) -> App:
    """A part's ASGI application behind the guard."""

    def guard(app: Any, **options: Any) -> App:
        names = Names(LOOPBACK, settings.hosts)
        return Guard(app, names, **{"credentials": credentials, **options})

    return PARTS[name](settings, guard)


def main() -> None:
    import uvicorn

    private_umask()
    try:
        name, settings = sys.argv[1], read_settings()
        app = guarded(name, settings, read_credentials(settings.home))
    except MixLLMError as error:
        sys.exit(f"mixllm: {error}")
    uvicorn.run(app, host=LOOPBACK, port=getattr(settings, f"{name}_port"), server_header=False)


if __name__ == "__main__":
    main()
