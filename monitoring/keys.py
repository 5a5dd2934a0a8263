"""API keys: made once, shown once, kept as a hash.

A key is 256 random bits, so one SHA-256 is hash enough: there is nothing to guess faster.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from models.errors import StoreError, nearest
from models.exploration import Exploration
from monitoring.tables import api_keys

SCOPES: Final = ("route", "feedback", "admin")
PREFIX: Final = "mixllm-"


@dataclass(frozen=True)
class ApiKey:
    """A key as it is known after its creation. sha256: of the whole key, as sent."""

    id: str
    name: str
    sha256: str
    scopes: tuple[str, ...]
    requests_per_minute: int | None = None
    monthly_budget_usd: float | None = None
    exploration: dict[str, Any] | None = None

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, data: dict[str, Any]) -> ApiKey:
        return cls(**{**data, "scopes": tuple(data["scopes"])})


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def create_key(
    engine: Engine,
    name: str,
    scopes: Sequence[str],
    requests_per_minute: int | None = None,
    monthly_budget_usd: float | None = None,
    exploration: Exploration | None = None,
) -> tuple[ApiKey, str]:
    """A new key, and the secret that only its holder keeps. Raises StoreError."""
    for scope in scopes:
        if scope not in SCOPES:
            raise StoreError(f"no scope {scope!r}; {nearest(scope, SCOPES)}")
    identity = secrets.token_hex(4)
    secret = f"{PREFIX}{identity}-{secrets.token_urlsafe(32)}"
    key = ApiKey(
        identity,
        name,
        hash_key(secret),
        tuple(scopes),
        requests_per_minute,
        monthly_budget_usd,
        exploration.model_dump() if exploration else None,
    )
    values = {**key.dump(), "scopes": list(scopes), "created_at": datetime.now(UTC)}
    try:
        with engine.begin() as connection:
            connection.execute(insert(api_keys).values(values))
    except IntegrityError as error:
        raise StoreError(f"there is a key {name!r} already; revoke it or choose a name") from error
    return key, secret


def list_keys(engine: Engine) -> list[dict[str, Any]]:
    """Every key ever made, the newest last, without its hash."""
    columns = [c for c in api_keys.c if c.name != "sha256"]
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).order_by(api_keys.c.created_at)).mappings()
        return [dict(row) for row in rows]


def revoke_key(engine: Engine, name: str) -> None:
    """No service takes the key from its next look on. Raises StoreError."""
    statement = (
        update(api_keys)
        .where((api_keys.c.name == name) | (api_keys.c.id == name))
        .where(api_keys.c.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
    )
    with engine.begin() as connection:
        if connection.execute(statement).rowcount == 0:
            known = [str(row["name"]) for row in list_keys(engine) if row["revoked_at"] is None]
            raise StoreError(f"no key {name!r} is in use; {nearest(name, known)}")


def valid_keys(engine: Engine) -> list[ApiKey]:
    """The keys that are not revoked."""
    names = [api_keys.c[name] for name in ApiKey.__dataclass_fields__]
    statement = select(*names).where(api_keys.c.revoked_at.is_(None))
    with engine.connect() as connection:
        return [ApiKey.parse(dict(row)) for row in connection.execute(statement).mappings()]
