"""One at a time, across processes and machines: a lock in Postgres that its holder's death frees."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

log = logging.getLogger("mixllm.locks")


@contextmanager
def exclusive(engine: Engine, name: str) -> Iterator[None]:
    """Hold the lock of a name; waits for whoever holds it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        key = {"name": f"mixllm {name}"}
        ask = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
        if not connection.execute(ask, key).scalar_one():
            log.warning("waiting for another run that holds the lock of: %s", name)
            connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:name, 0))"), key)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), key)


def take_lock(connection: Connection, number: int) -> None:
    """Hold a numbered lock until the transaction ends; waits for whoever holds it."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": number})


def try_lock(connection: Connection, number: int) -> bool:
    """Hold a numbered lock until the transaction ends, if nobody else does; whether it is ours."""
    ask = text("SELECT pg_try_advisory_xact_lock(:lock)")
    return bool(connection.execute(ask, {"lock": number}).scalar_one())
