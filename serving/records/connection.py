"""The process's connection to Postgres."""

from __future__ import annotations

import threading

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from infra.database import STATEMENT_SECONDS
from infra.settings import Settings
from monitoring.store.schema import open_store


class StoreConnection:
    """One engine per process. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """The database's engine, migrated; made when first needed, again if it failed.

        Raises SQLAlchemyError, after some seconds at most.
        """
        if (engine := self._engine) is not None:
            return engine
        if not self._lock.acquire(timeout=STATEMENT_SECONDS):
            raise SQLAlchemyError("Postgres does not answer: it is being connected to")
        try:
            if self._engine is None:
                self._engine = open_store(self._settings, impatient=True)
            return self._engine
        except SQLAlchemyError:
            raise
        except Exception as error:  # the embedded server did not start, say
            raise SQLAlchemyError(str(error)) from error
        finally:
            self._lock.release()
