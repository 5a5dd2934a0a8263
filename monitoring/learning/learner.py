"""The learner: reads votes by cursor, teaches the policy state, keeps state and cursor together.

One transaction reads, learns and writes, under a lock that only one learner can hold: a vote is in the
state exactly when the state's cursor has passed it, whatever was killed when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Double, Engine, Select, case, cast, func, select

from models.errors import StoreError
from models.learning.policy_state import PolicyState, Vote
from monitoring.learning.policy_states import (
    Skip,
    Skips,
    Stored,
    add_skip,
    lift_skips,
    newest_state,
    refuse_bad_states,
    state_of,
    write_state,
)
from monitoring.learning.vote import LoggedVote
from monitoring.store.locks import try_lock
from monitoring.store.releases import Parts, known_releases
from monitoring.store.tables import decisions, feedback

LEARNER_LOCK: Final = 77_202_513
# Votes of one transaction: the most that a learner repeats after it was killed.
BATCH: Final = 5_000
Progress = Callable[[int], None] | None


class Busy(StoreError):
    """Another learner is at work."""


@dataclass(frozen=True)
class Subject:
    """The release that is taught.

    untaught: its state before any vote.
    """

    untaught: PolicyState
    parts: Parts


@dataclass(frozen=True)
class Learned:
    """A state after learning.

    version: the state's, None where there was nothing to learn.
    votes: read by this call.
    """

    version: int | None
    state: PolicyState
    votes: int


@dataclass(frozen=True)
class WaitingVote(LoggedVote):
    """A vote to learn from.

    predicted: the quality predicted of who answered.
    replaced_reward: of the vote that this one corrects.
    """

    predicted: float | None
    replaced_reward: float | None

    def to_apply(self, subject: Subject, release: str, known: Mapping[str, Parts]) -> Vote | str:
        """The vote as a release's state applies it, or why it cannot teach this release.

        known: the parts of the releases that decided.
        """
        if self.embedding is None:
            return "no routed decision"
        if len(self.embedding) != 4 * subject.untaught.directions.shape[1]:
            return "an embedding of another width"
        if self.quality is None and self.satisfied is None:
            return "no judgement"
        if self.predicted is None:
            return "nothing was predicted of who answered"
        if reason := self._made_elsewhere(subject, release, known):
            return reason
        return Vote(
            position=self.position,
            decision=self.decision_id.bytes,
            llm=self.llm,
            embedding=np.frombuffer(self.embedding, dtype="<f4"),
            predicted=self.predicted,
            reward=self.reward,
            graded=self.quality is not None,
            voter=self.voter,
            replaced=self.replaced_reward,
        )

    def _made_elsewhere(
        self, subject: Subject, release: str, known: Mapping[str, Parts]
    ) -> str | None:
        """Why a vote on another release's decision says nothing of this one, if so."""
        if self.release_digest == release:
            return None
        decided = known.get(self.release_digest or "")
        if decided is None:
            return "an unknown release decided"
        if decided.encoder != subject.parts.encoder:
            return "another encoder"
        if decided.predictors.get(self.llm) != subject.parts.predictors.get(self.llm):
            return "another predictor"
        return None


def learn(
    engine: Engine, subject: Subject, progress: Progress = None, batch: int = BATCH
) -> Learned:
    """Apply every vote that waits, so many a transaction.

    Raises Busy where another learner is at work.
    """
    votes, learned = 0, None
    while learned is None or learned.votes == batch:
        learned = _learn_batch(engine, subject, batch)
        votes += learned.votes
        if progress is not None:
            progress(learned.votes)
    return Learned(learned.version, learned.state, votes)


def _learn_batch(engine: Engine, subject: Subject, batch: int) -> Learned:
    with engine.begin() as connection:
        take_turn(connection)
        refuse_bad_states(connection, subject.untaught.release)
        stored = newest_state(connection, subject.untaught.release)
        state = stored.state if stored else subject.untaught.copy()
        votes = replay(connection, subject, state, batch)
        if not votes:
            return Learned(stored.version if stored else None, state, 0)
        return Learned(write_state(connection, state, "learned"), state, votes)


def rebuild(engine: Engine, subject: Subject, progress: Progress = None) -> tuple[Learned, bool]:
    """Learn the whole log anew; keeps the state that comes of it.

    Returns it, and whether it is byte for byte the one that was served. Raises Busy.
    """
    with engine.begin() as connection:
        take_turn(connection)
        refuse_bad_states(connection, subject.untaught.release)
        stored = newest_state(connection, subject.untaught.release)
        state, votes = subject.untaught.copy(), 0
        upto = stored.state.cursor if stored else None
        while count := replay(connection, subject, state, BATCH, upto):
            votes += count
            if progress is not None:
                progress(count)
        if stored is not None and stored.state.dump() == state.dump():
            return Learned(stored.version, state, votes), True
        return Learned(write_state(connection, state, "rebuilt"), state, votes), False


def roll_back(engine: Engine, version: int, reason: str) -> int:
    """Go back to an older state for good: votes since then teach this release nothing.

    Returns the version of the state made. Raises StoreError, PolicyError, Busy.
    """
    with engine.begin() as connection:
        take_turn(connection)
        state = state_of(connection, version)
        refuse_bad_states(connection, state.release)
        newest = newest_state(connection, state.release)
        after = state.cursor
        state.cursor = newest.state.cursor if newest else after
        lift_skips(connection, state.release, version)
        made = write_state(connection, state, f"rolled back to {version}: {reason}")
        skip = Skip(after, state.cursor, reason, release_digest=state.release, by_version=made)
        add_skip(connection, skip)
        return made


def leave_out(engine: Engine, voter: str, reason: str) -> None:
    """A voter's votes so far teach nothing from now on; ``rebuild`` applies it. Raises Busy."""
    with engine.begin() as connection:
        take_turn(connection)
        last = connection.execute(select(func.max(feedback.c.position))).scalar_one()
        add_skip(connection, Skip(0, int(last or 0), reason, voter=voter))


def take_turn(connection: Connection) -> None:
    """Hold the learner's lock until the transaction ends. Raises Busy."""
    if not try_lock(connection, LEARNER_LOCK):
        raise Busy


def newest_good(engine: Engine, release: str) -> Stored | None:
    """The newest state that may be served; a read, which marks nothing."""
    with engine.connect() as connection:
        return newest_state(connection, release)


def replay(
    connection: Connection,
    subject: Subject,
    state: PolicyState,
    limit: int,
    upto: int | None = None,
) -> int:
    """Teach a state the votes after its cursor; returns how many there were."""
    skips = Skips.of(connection, state.release)
    parts = known_releases(connection)
    count = 0
    for logged in votes_after(connection, state.cursor, limit, upto):
        count += 1
        if skips.covers(logged.position, logged.voter):
            state.cursor = logged.position
            continue
        vote = logged.to_apply(subject, state.release, parts)
        if isinstance(vote, Vote):
            state.apply(vote)
        else:
            state.pass_over(vote, logged.position)
    return count


def votes_after(
    connection: Connection, cursor: int, limit: int, upto: int | None = None
) -> Iterator[WaitingVote]:
    """Votes with what their decisions say, in the order of the log."""
    for row in connection.execute(votes_query(cursor, limit, upto)).mappings():
        yield WaitingVote(**row)


def votes_query(cursor: int, limit: int, upto: int | None = None) -> Select[Any]:
    """The learner's one hot query."""
    path = (decisions.c.scores, feedback.c.llm, "quality")
    predicted = case(
        (
            func.jsonb_typeof(func.jsonb_extract_path(*path)) == "number",
            cast(func.jsonb_extract_path_text(*path), Double),
        )
    )
    statement = (
        select(
            feedback.c.position,
            feedback.c.decision_id,
            feedback.c.llm,
            feedback.c.satisfied,
            feedback.c.quality,
            feedback.c.replaced_reward,
            feedback.c.key_id,
            feedback.c.source,
            decisions.c.release_digest,
            decisions.c.embedding,
            predicted.label("predicted"),
        )
        .outerjoin(decisions, decisions.c.id == feedback.c.decision_id)
        .where(feedback.c.position > cursor)
        .order_by(feedback.c.position)
        .limit(limit)
    )
    return statement if upto is None else statement.where(feedback.c.position <= upto)
