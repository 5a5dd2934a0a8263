"""What commands stand on: settings, registry, store, the running service.

Imports only what ``--help`` needs; the rest when it is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from models.errors import MixLLMError, StoreError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.registry.registry import Registry
    from infra.settings import Settings


def settings_with_stack() -> Settings:
    """The settings, pointed at the local stack where one runs; home is there and can be written to."""
    from infra.home import ready_home
    from infra.settings import read_settings

    ready_home(read_settings().home)
    return client_settings()


def client_settings() -> Settings:
    """The settings of a command that only asks the service and keeps nothing in home."""
    from infra.settings import read_settings
    from infra.stack.join import join_running_stack

    join_running_stack(read_settings())
    return read_settings()


def registry(settings: Settings) -> Registry:
    from infra.registry.registry import Registry

    return Registry.of(settings)


def point_prefect(settings: Settings) -> None:
    """Flows of this process report to the configured server, or to a temporary one of their own."""
    from infra.stack.parts import prefect_home

    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "mixllm")
    # On a small or busy machine the temporary server takes longer than Prefect's 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "300")
    if "PREFECT_HOME" not in os.environ:
        os.environ.update(prefect_home(settings.home))
    if settings.prefect_api_url is not None:
        os.environ.setdefault("PREFECT_API_URL", settings.prefect_api_url)


def ask_service(settings: Settings, method: str, path: str, **request: Any) -> dict[str, Any]:
    """The running service's answer. Raises MixLLMError."""
    import httpx

    from infra.addresses import request_directly

    try:
        response = request_directly(
            method,
            f"{settings.service_url}{path}",
            headers=settings.key_header,
            timeout=60,
            **request,
        )
    except httpx.HTTPError as error:
        raise MixLLMError(
            f"no service answers at {settings.service_url} ({error}); start it: mixllm up"
        ) from error
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise MixLLMError(answer["error"]["message"])
    return answer


def champion_candidates(settings: Settings) -> list[str]:
    """The champion's candidates. Raises NoRelease."""
    from models.release.manifest import read_manifest

    opened = registry(settings)
    names: list[str] = read_manifest(opened.fetch(opened.champion())).catalog.names
    return names


def ready_to_watch() -> None:
    """What a user can fix is said before a flow starts. Raises NoRelease, SettingsError."""
    from models.drift.alerts import read_rules

    settings = settings_with_stack()
    read_rules(settings.alerts)
    registry(settings).champion()
    point_prefect(settings)


def store() -> Engine:
    """The database's engine, migrated. Raises StoreError."""
    from sqlalchemy.exc import OperationalError

    from infra.addresses import without_login
    from monitoring.store.dead_letters import reason_of
    from monitoring.store.schema import open_store

    settings = settings_with_stack()
    try:
        return open_store(settings)
    except OperationalError as error:
        configured = settings.database()
        place = "the embedded Postgres" if configured is None else without_login(configured)
        raise StoreError(
            f"{place} cannot be used ({reason_of(error)}); start it, or set MIXLLM_DATABASE_URL"
        ) from error
