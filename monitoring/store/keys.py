"""API keys: made once, shown once, kept as a hash; and whether a key is needed at all.

A key is 256 random bits, so one SHA-256 is hash enough: there is nothing to guess faster.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from sqlalchemy import Connection, Engine, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from models.decision.exploration import Exploration
from models.errors import StoreError, nearest
from monitoring.store.tables import api_keys, key_requirements

Scope = Literal["route", "feedback", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
PREFIX: Final = "mixllm-"
MAX_COUNT: Final = 2**31 - 1
STRICT: Final = ConfigDict(strict=True)
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
class ApiKey:
    """A key as it is known after its creation.

    sha256: of the whole key, as sent.

    Raises ValidationError for content that no command writes, such as a budget that is not a number.
    """

    id: Annotated[str, Field(min_length=1, max_length=100)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Field(strict=False)]
    requests_per_minute: Count | None = None
    monthly_budget_usd: Dollars | None = None
    exploration: Annotated[Exploration | None, Field(strict=False)] = None

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def dump(self) -> dict[str, Any]:
        drawn = None if self.exploration is None else self.exploration.model_dump()
        return {**asdict(self), "scopes": list(self.scopes), "exploration": drawn}


@dataclass(frozen=True, config=STRICT)
class Access:
    """Who may ask, as a database says.

    keys: those in use.
    required: whether a key is needed; None where no command ever said.
    unusable: SHA-256 of a key whose row has odd content, and what is odd.
    """

    keys: tuple[ApiKey, ...] = ()
    required: bool | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KeyOptions:
    """What a key may do; None: no limit, and choices are drawn as for everybody."""

    requests_per_minute: int | None = None
    monthly_budget_usd: float | None = None
    exploration: Exploration | None = None


UNLIMITED: Final = KeyOptions()


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def create_key(
    engine: Engine,
    name: str,
    scopes: Sequence[str],
    options: KeyOptions = UNLIMITED,
) -> tuple[ApiKey, str]:
    """A new key, and the secret that only its holder keeps; from then on keys are required.

    Raises StoreError.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise StoreError(f"no scope {scope!r}; {nearest(scope, SCOPES)}")
    if not name.isprintable() or not name.strip():
        raise StoreError(f"a key's name must be printable text, not {name!r}")
    budget = options.monthly_budget_usd
    if budget is not None and not math.isfinite(budget):
        raise StoreError(f"a monthly budget must be an amount of USD, not {budget}")
    identity = secrets.token_hex(4)
    secret = f"{PREFIX}{identity}-{secrets.token_urlsafe(32)}"
    try:
        key = ApiKey(
            id=identity,
            name=name,
            sha256=hash_key(secret),
            scopes=tuple(scopes),  # type: ignore[arg-type]  # checked above
            **vars(options),
        )
    except ValidationError as error:
        raise StoreError(f"key {name!r}: {first_fault(error)}") from error
    values = {**key.dump(), "created_at": datetime.now(UTC)}
    try:
        with engine.begin() as connection:
            connection.execute(insert(api_keys).values(values))
            state_requirement(connection, f"key {name!r} created", required=True)
    except IntegrityError as error:
        raise StoreError(
            f"key {name!r} already exists; revoke it or choose another name"
        ) from error
    return key, secret


def state_requirement(connection: Connection, reason: str, *, required: bool) -> None:
    """Write down whether a key is needed from now on, unless the last statement says the same."""
    if stated_requirement(connection) is not required:
        row = {"stated_at": datetime.now(UTC), "keys_required": required, "reason": reason}
        connection.execute(insert(key_requirements).values(row))


def stated_requirement(connection: Connection) -> bool | None:
    """What the last command set; None where none did."""
    statement = (
        select(key_requirements.c.keys_required).order_by(key_requirements.c.id.desc()).limit(1)
    )
    stated: bool | None = connection.execute(statement).scalar_one_or_none()
    return stated


def require_keys(engine: Engine) -> None:
    """From now on every request needs a key, whether or not there is one."""
    with engine.begin() as connection:
        state_requirement(connection, "mixllm keys require", required=True)


def open_access(engine: Engine) -> None:
    """From now on no request needs a key. Raises StoreError while keys are in use."""
    with engine.begin() as connection:
        # No key may be created between this check and the statement.
        connection.execute(text("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE"))
        names = select(api_keys.c.name).where(api_keys.c.revoked_at.is_(None))
        used = sorted(connection.execute(names).scalars())
        if used:
            count = "1 key is" if len(used) == 1 else f"{len(used)} keys are"
            raise StoreError(f"{count} in use ({', '.join(used[:5])}); revoke them first")
        state_requirement(connection, "mixllm keys open", required=False)


def list_keys(engine: Engine) -> list[dict[str, Any]]:
    """Every key ever made, the newest last, without its hash."""
    columns = [c for c in api_keys.c if c.name != "sha256"]
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).order_by(api_keys.c.created_at)).mappings()
        return [dict(row) for row in rows]


def revoke_key(engine: Engine, name: str) -> None:
    """Services refuse the key within seconds; keys stay required. Raises StoreError."""
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


def read_access(engine: Engine) -> Access:
    """The keys that are not revoked, and whether one is needed."""
    names = [api_keys.c[name] for name in ApiKey.__dataclass_fields__]
    with engine.connect() as connection:
        used = select(*names).where(api_keys.c.revoked_at.is_(None))
        rows = [dict(row) for row in connection.execute(used).mappings()]
        ever = connection.execute(select(func.count()).select_from(api_keys)).scalar_one()
        stated = stated_requirement(connection)
    keys: list[ApiKey] = []
    unusable: dict[str, str] = {}
    for row in rows:
        try:
            if row["id"] == "root":
                raise ValueError("the id 'root' belongs to MIXLLM_API_KEY")
            keys.append(ApiKey(**row))
        except ValidationError as error:
            unusable[str(row["sha256"])] = f"key {row['name']!r}: {first_fault(error)}"
        except ValueError as error:
            unusable[str(row["sha256"])] = f"key {row['name']!r}: {error}"
    required = stated
    if rows or (stated is None and ever):
        required = True
    return Access(tuple(keys), required, unusable)


def valid_keys(engine: Engine) -> list[ApiKey]:
    """The keys that are not revoked."""
    return list(read_access(engine).keys)


def dollars(usd: float) -> str:
    """An amount in plain digits: $0.05, never 5e-02."""
    digits = format(Decimal(f"{usd:.6g}"), "f")
    whole, _, cents = digits.partition(".")
    return f"${whole}.{cents.ljust(2, '0')}"


def first_fault(error: ValidationError) -> str:
    """Which field is odd, and how."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
