"""Whether an error says that Postgres cannot be written to, or that a row is bad."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError

# SQLSTATE classes and codes that say nothing of a row: connection, transaction state, login, schema,
# conflict, resources, object state, operator, system, internal; a table missing or not ours.
AWAY_CLASSES: Final = frozenset({"08", "25", "28", "3D", "3F", "40", "53", "55", "57", "58", "XX"})
AWAY_CODES: Final = frozenset({"42P01", "42501", "42703"})


class DatabaseAway(Exception):
    """Rows cannot be written now, whatever they are; they wait."""


def is_away(error: BaseException) -> bool:
    """Whether an error says that nothing can be written now, rather than that a row is bad."""
    if isinstance(error, DatabaseAway | OSError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "pgcode", None)
    if code is None:
        return isinstance(error, OperationalError | InterfaceError)
    return code[:2] in AWAY_CLASSES or code in AWAY_CODES
