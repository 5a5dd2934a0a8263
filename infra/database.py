"""Postgres: a configured server, or the embedded one."""

from __future__ import annotations

import select
import time
from pathlib import Path
from typing import Any, Final

import psycopg2
import psycopg2.extensions
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from infra.embedded_postgres import embedded_postgres
from infra.text import dump_json, storable_text
from models.errors import SettingsError, StoreError

DRIVER = "postgresql+psycopg2"
CONNECT_SECONDS: Final = 3
STATEMENT_SECONDS: Final = 4.0
# A little more than a statement may take, so that a living server has the say.
PATIENCE_SECONDS: Final = 5.0


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


def database_address(configured: str | None, home: Path) -> str:
    """The address to use: the configured one, else the embedded server's (started if need be)."""
    if configured is not None:
        return normal_url(configured).render_as_string(hide_password=False)
    url = embedded_postgres(home).url().set(drivername=DRIVER)
    return url.render_as_string(hide_password=False)


class Impatient(psycopg2.extensions.connection):
    """A connection that is given up when the server says nothing for ``PATIENCE_SECONDS``: a server
    that hangs, or a network that swallows packets, ends no statement by itself."""


def wait_a_while(connection: psycopg2.extensions.connection) -> None:
    """psycopg2's way to wait for the server; of an ``Impatient`` connection not for ever.

    Raises OperationalError, which closes the connection.
    """
    patience = None
    if isinstance(connection, Impatient):
        patience = PATIENCE_SECONDS
    elif connection.status == psycopg2.extensions.STATUS_SETUP:
        patience = CONNECT_SECONDS  # libpq heeds its own limit only where it waits by itself
    deadline = None if patience is None else time.monotonic() + patience
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        poll = select.poll()  # select.select knows no descriptor above 1023
        wanted = select.POLLIN if state == psycopg2.extensions.POLL_READ else select.POLLOUT
        poll.register(connection.fileno(), wanted)
        if not poll.poll(None if left is None else 1000 * left):
            raise psycopg2.OperationalError(f"no answer for {patience:g} s")


def connect(address: str, *, impatient: bool = False) -> Engine:
    """An engine that checks a connection before it trusts it, and gives up connecting soon.

    impatient: for short statements beside live requests. The server ends one after
    ``STATEMENT_SECONDS``, the client after ``PATIENCE_SECONDS``, and nobody waits long for a
    connection of the pool. Every text that goes through it is made storable: a NUL in a name or a
    message is no error.
    """
    options: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS}
    more: dict[str, Any] = {}
    if impatient:
        # While no callback is set psycopg2 waits within libpq, where nothing can end it.
        psycopg2.extensions.set_wait_callback(wait_a_while)
        milliseconds = round(1000 * STATEMENT_SECONDS)
        options |= {
            "connection_factory": Impatient,
            "options": f"-c statement_timeout={milliseconds}"
            f" -c idle_in_transaction_session_timeout={10 * milliseconds}",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": milliseconds,
        }
        more = {"pool_timeout": STATEMENT_SECONDS}
    engine = create_engine(
        normal_url(address),
        pool_pre_ping=True,
        pool_size=4,
        hide_parameters=True,  # its error messages go to logs; rows hold comments and names
        executemany_mode="values_plus_batch",  # many rows, one round trip
        json_serializer=dump_json,
        connect_args=options,
        **more,
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
