"""Opening a database as MLflow's store: one process at a time, since the first one makes its tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from infra.file_lock import FileLock

LOCK_FILE: Final = "mlflow.lock"


@contextmanager
def opening(uri: str, home: Path) -> Iterator[None]:
    """Nobody else on this machine opens the store meanwhile; a server needs no such care.

    MLflow has a lock of its own, by the text of the address and in the folder for temporary files:
    processes that differ in either would migrate at once.

    home: where the lock of a database that is no file lies.
    Raises SettingsError.
    """
    if uri.startswith("http"):
        yield
        return
    path = lock_of(uri, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.release()


def lock_of(uri: str, home: Path) -> Path:
    """Beside the file that a SQLite address names; in home for any other database."""
    try:
        url = make_url(uri)
    except ArgumentError:  # a folder, or a service that only MLflow knows
        return home / LOCK_FILE
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return home / LOCK_FILE
    return Path(f"{url.database}.lock")
