"""The learner's store: states with their cursors, and which votes teach nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from models.errors import PolicyError, StoreError
from models.learning.policy_state import PolicyState, state_digest
from monitoring.store.tables import policy_skips, policy_states

log = logging.getLogger("mixllm.policy")

# How many states of a release are kept.
KEPT: Final = 50


@dataclass(frozen=True)
class Stored:
    """A state and its version in the store."""

    version: int
    state: PolicyState


def newest_state(connection: Connection, release: str) -> Stored | None:
    """The newest good state of a release; those that cannot be read are passed over."""
    for version, state in _newest_first(connection, release):
        if isinstance(state, PolicyState):
            return Stored(version, state)
        log.error("policy state %s is bad: %s", version, state)
    return None


def refuse_bad_states(connection: Connection, release: str) -> None:
    """Mark the states that are newer than the newest good one, so that they are not read again."""
    for version, state in _newest_first(connection, release):
        if isinstance(state, PolicyState):
            return
        marked = update(policy_states).where(policy_states.c.version == version)
        connection.execute(marked.values(refused=str(state)))


def _newest_first(
    connection: Connection, release: str
) -> Iterator[tuple[int, PolicyState | PolicyError]]:
    """The states of a release that are not refused, each with its version or what is wrong with it;
    read one by one."""
    statement = (
        select(policy_states.c.version, policy_states.c.digest, policy_states.c.state)
        .where(policy_states.c.release_digest == release, policy_states.c.refused.is_(None))
        .order_by(policy_states.c.version.desc())
        .limit(1)
    )
    older = statement
    while (row := connection.execute(older).mappings().first()) is not None:
        try:
            yield row["version"], read_state(bytes(row["state"]), row["digest"], release)
        except PolicyError as error:
            yield row["version"], error
        older = statement.where(policy_states.c.version < row["version"])


def read_state(data: bytes, digest: str, release: str) -> PolicyState:
    """Check and read a stored state. Raises PolicyError."""
    if state_digest(data) != digest:
        raise PolicyError("its bytes are not those that were written")
    state = PolicyState.parse(data)
    if state.release != release:
        raise PolicyError(f"it belongs to release {state.release[:12]}, not to {release[:12]}")
    return state


@dataclass(frozen=True)
class Mark:
    """The newest state's version, and why it is refused, if so."""

    version: int
    refused: str | None


def newest_mark(engine: Engine, release: str) -> Mark | None:
    """The newest state of a release without its bytes: cheap to ask often."""
    statement = (
        select(policy_states.c.version, policy_states.c.refused)
        .where(policy_states.c.release_digest == release)
        .order_by(policy_states.c.version.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(statement).first()
    return None if row is None else Mark(int(row[0]), row[1])


def write_state(connection: Connection, state: PolicyState, reason: str) -> int:
    """Keep a checked state; returns its version. The oldest beyond ``KEPT`` go. Raises PolicyError."""
    data = state.dump()
    values = {
        "release_digest": state.release,
        "cursor": state.cursor,
        "created_at": datetime.now(UTC),
        "reason": reason,
        "digest": state_digest(data),
        "state": data,
        "statistics": state.statistics(),
    }
    made = insert(policy_states).values(values).returning(policy_states.c.version)
    version = int(connection.execute(made).scalar_one())
    kept = (
        select(policy_states.c.version)
        .where(policy_states.c.release_digest == state.release)
        .order_by(policy_states.c.version.desc())
        .offset(KEPT)
        .limit(1)
        .scalar_subquery()
    )
    connection.execute(
        delete(policy_states).where(
            policy_states.c.release_digest == state.release, policy_states.c.version <= kept
        )
    )
    return version


def last_cursor(engine: Engine) -> int:
    """How far into the log any state has learned; 0 before the first."""
    with engine.connect() as connection:
        last = connection.execute(select(func.max(policy_states.c.cursor))).scalar_one()
    return int(last or 0)


def list_states(engine: Engine, release: str | None = None) -> list[dict[str, Any]]:
    """Every state without its bytes, the newest first; of one release, or of all."""
    columns = [c for c in policy_states.c if c.name != "state"]
    statement = select(*columns).order_by(policy_states.c.version.desc())
    if release is not None:
        statement = statement.where(policy_states.c.release_digest == release)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def state_of(connection: Connection, version: int) -> PolicyState:
    """One version's state. Raises StoreError, PolicyError."""
    statement = select(policy_states).where(policy_states.c.version == version)
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise StoreError(f"no policy state {version}; see: mixllm policy list")
    if row["refused"] is not None:
        raise StoreError(f"policy state {version} is refused: {row['refused']}")
    return read_state(bytes(row["state"]), row["digest"], row["release_digest"])


@dataclass(frozen=True)
class Skip:
    """Votes after one position up to another that teach nothing.

    release_digest: None for every release.
    voter: None for all.
    by_version: the state that a roll-back made, if one did.
    """

    after: int
    upto: int
    reason: str
    release_digest: str | None = None
    voter: str | None = None
    by_version: int | None = None


@dataclass(frozen=True)
class Skips:
    """Which votes teach a release nothing: (after, upto, voter or None) ranges."""

    ranges: tuple[tuple[int, int, str | None], ...]

    @classmethod
    def of(cls, connection: Connection, release: str) -> Skips:
        columns = (policy_skips.c.after, policy_skips.c.upto, policy_skips.c.voter)
        ours = (policy_skips.c.release_digest == release) | policy_skips.c.release_digest.is_(None)
        rows = connection.execute(select(*columns).where(ours))
        return cls(tuple((int(a), int(u), v) for a, u, v in rows))

    def covers(self, position: int, voter: str) -> bool:
        return any(
            after < position <= upto and who in (None, voter) for after, upto, who in self.ranges
        )


def add_skip(connection: Connection, skip: Skip) -> None:
    """From now on these votes teach nothing."""
    connection.execute(insert(policy_skips).values({"made_at": datetime.now(UTC), **vars(skip)}))


def lift_skips(connection: Connection, release: str, since_version: int) -> None:
    """Undo what roll-backs to before a version have skipped since it was made."""
    connection.execute(
        delete(policy_skips).where(
            policy_skips.c.release_digest == release, policy_skips.c.by_version > since_version
        )
    )
