"""What the log holds for refitting and for off-policy evaluation: votes beside their decisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Engine, Select, func, select
from sqlalchemy.dialects.postgresql import distinct_on

from models.decision.estimates import DecisionDefaults, score
from models.decision.exploration import probabilities
from models.encoder.inputs import FORM_WIDTH, QueryInputs
from models.learning.off_policy import LoggedVotes
from models.predictors.compiled import CompiledPredictors
from models.predictors.refitting import GradedAnswers
from models.release.manifest import Manifest
from monitoring.learning.policy_states import Skips
from monitoring.learning.vote import LoggedVote
from monitoring.store import tables
from monitoring.store.releases import Parts, known_releases
from monitoring.store.tables import decisions, feedback

# The newest votes that an evaluation reads.
MOST_VOTES: Final = 50_000


@dataclass(frozen=True)
class AnsweredVote(LoggedVote):
    """A vote with the answer that it judges and the decision behind it.

    cost_usd: None where only prices tell.
    chosen: the candidate that was decided for; another one may have answered.
    scores: candidate → its terms, of those that were permitted.
    embedding, form, query_tokens: of the query, as predictors read it; the first two as float32,
        little-endian.
    """

    prompt_tokens: int | None
    response_tokens: int | None
    cost_usd: float | None
    chosen: str
    propensity: float
    willingness_to_pay: float
    scores: Mapping[str, Any]
    form: bytes | None
    query_tokens: float | None

    def left_out_because(
        self, manifest: Manifest, parts: Parts | None, held: Collection[str], skips: Skips
    ) -> str | None:
        """Why it says nothing of a release, if so.

        parts: of the release that decided.
        """
        if self.embedding is None or self.form is None or self.query_tokens is None:
            return "no routed decision"
        if parts is None or parts.encoder != manifest.encoder.encoder:
            return "another encoder"
        if self.voter in held:
            return "a held voter"
        if skips.covers(self.position, self.voter):
            return "skipped"
        return None


@dataclass(frozen=True)
class Votes:
    """n votes, the last of each (decision, source, key).

    inputs: of the queries.
    left_out: reason → how many votes are not among them.
    """

    rows: Sequence[AnsweredVote]
    inputs: QueryInputs
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows)


def read_votes(
    engine: Engine,
    manifest: Manifest,
    held: Sequence[str],
    *,
    graded: bool = False,
    after: int = 0,
) -> Votes:
    """The newest votes on queries that a release's encoder embedded.

    manifest: of the release, whose skipped votes are left out.
    held: voters whose votes are left out.
    graded: only graded ones.
    after: only votes after this position.
    """
    left_out: dict[str, int] = {}
    kept = []
    with engine.connect() as connection:
        skips, known = Skips.of(connection, manifest.digest), known_releases(connection)
        for row in connection.execute(votes_query(after, graded=graded)).mappings():
            vote = AnsweredVote(**row)
            parts = known.get(vote.release_digest or "")
            reason = vote.left_out_because(manifest, parts, held, skips)
            if reason is None:
                kept.append(vote)
            else:
                left_out[reason] = left_out.get(reason, 0) + 1
    kept.reverse()
    return Votes(kept, inputs_of(kept), left_out)


def inputs_of(votes: Sequence[AnsweredVote]) -> QueryInputs:
    """What predictors read of the decisions' queries."""
    if not votes:
        return QueryInputs(np.zeros((0, 0), np.float32), np.zeros((0, FORM_WIDTH)), np.zeros(0))
    return QueryInputs(
        np.stack([np.frombuffer(vote.embedding or b"", dtype="<f4") for vote in votes]),
        np.stack([np.frombuffer(vote.form or b"", dtype="<f4") for vote in votes]),
        np.array([vote.query_tokens for vote in votes]),
    )


def votes_query(after: int, *, graded: bool) -> Select[Any]:
    """The newest first."""
    last = (
        select(feedback)
        .where(feedback.c.position > after)
        .ext(distinct_on(feedback.c.decision_id, feedback.c.source, feedback.c.key_id))
        .order_by(
            feedback.c.decision_id,
            feedback.c.source,
            feedback.c.key_id,
            feedback.c.revision.desc(),
        )
        .subquery()
    )
    statement = (
        select(
            last.c.position,
            last.c.decision_id,
            last.c.source,
            last.c.key_id,
            last.c.llm,
            last.c.satisfied,
            last.c.quality,
            func.coalesce(last.c.prompt_tokens, tables.answers.c.prompt_tokens).label(
                "prompt_tokens"
            ),
            func.coalesce(last.c.response_tokens, tables.answers.c.response_tokens).label(
                "response_tokens"
            ),
            tables.answers.c.cost_usd,
            decisions.c.llm.label("chosen"),
            decisions.c.propensity,
            decisions.c.willingness_to_pay,
            decisions.c.scores,
            decisions.c.release_digest,
            decisions.c.embedding,
            decisions.c.form,
            decisions.c.query_tokens,
        )
        .join(decisions, decisions.c.id == last.c.decision_id)
        .outerjoin(tables.answers, tables.answers.c.decision_id == last.c.decision_id)
        .order_by(last.c.position.desc())
        .limit(MOST_VOTES)
    )
    return statement.where(last.c.quality.is_not(None)) if graded else statement


def last_vote_before(engine: Engine, decision: int) -> int:
    """The position of the last vote that came before any on a decision after this position."""
    statement = (
        select(func.min(feedback.c.position))
        .join(decisions, decisions.c.id == feedback.c.decision_id)
        .where(decisions.c.position > decision)
    )
    with engine.connect() as connection:
        first = connection.execute(statement).scalar_one()
        if first is None:
            first = connection.execute(select(func.max(feedback.c.position))).scalar_one() or 0
            return int(first)
    return int(first) - 1


@dataclass(frozen=True)
class LoggedAnswers:
    """Graded answers, and their positions in the log."""

    answers: GradedAnswers
    positions: np.ndarray

    def where(self, keep: np.ndarray) -> LoggedAnswers:
        """Those that a boolean mask keeps."""
        return LoggedAnswers(self.answers.where(keep), self.positions[keep])

    def of(self, llm: str, after: int = 0) -> LoggedAnswers:
        """One candidate's, after a position."""
        mine = np.array([name == llm for name in self.answers.llms], dtype=bool)
        return self.where(mine & (self.positions > after))


def graded_answers(votes: Votes, candidates: Sequence[str]) -> LoggedAnswers:
    """Votes as training rows; those without tokens are left out."""
    keep = [
        i
        for i, vote in enumerate(votes.rows)
        if vote.llm in candidates
        and vote.prompt_tokens is not None
        and vote.response_tokens is not None
    ]
    rows = [votes.rows[i] for i in keep]

    def column(name: str) -> np.ndarray:
        return np.array([getattr(vote, name) for vote in rows], dtype=np.float64)

    answers = GradedAnswers(
        ids=[f"{vote.decision_id} {vote.source} {vote.key_id or ''}" for vote in rows],
        llms=[vote.llm for vote in rows],
        inputs=votes.inputs[np.array(keep, dtype=int)],
        quality=column("quality"),
        prompt_tokens=column("prompt_tokens"),
        response_tokens=column("response_tokens"),
        cost_usd=column("cost_usd"),
    )
    return LoggedAnswers(answers, column("position").astype(int))


def logged_votes(
    votes: Votes, releases: Sequence[tuple[CompiledPredictors, DecisionDefaults]]
) -> tuple[LoggedVotes, list[np.ndarray], list[str], int]:
    """(the log, each release's probabilities (n, L), the L candidates, votes left out).

    A release chooses the highest score among the candidates that were permitted when it was decided,
    at the same willingness to pay. Left out: votes on an answer of another candidate than the decision
    chose, whose propensity is unknown. Qualities are predicted by the first release, or by the second
    for a candidate that the first does not have.
    """
    names = sorted({name for compiled, _ in releases for name in compiled.candidates})
    places = {name: i for i, name in enumerate(names)}
    usable = [i for i, v in enumerate(votes.rows) if v.llm == v.chosen and v.llm in places]
    rows = [votes.rows[i] for i in usable]
    inputs = votes.inputs[np.array(usable, dtype=int)]
    model, targets = np.full((len(rows), len(names)), 0.5), []
    for compiled, defaults in reversed(releases):  # the first has the last word on ``model``
        columns = [places[name] for name in compiled.candidates]
        target = np.zeros((len(rows), len(names)))
        estimates = compiled.estimate(inputs)
        model[:, columns] = estimates.quality
        for i, vote in enumerate(rows):
            one = estimates[i : i + 1]
            totals = score(one, defaults, vote.willingness_to_pay).total[0]
            permitted = np.array([name in vote.scores for name in compiled.candidates])
            if permitted.any():
                scores = np.where(permitted, totals, -np.inf)
                target[i, columns] = probabilities(scores, one.cost[0], None)
        targets.append(target)
    log = LoggedVotes(
        choice=np.array([places[vote.llm] for vote in rows], dtype=int),
        propensity=np.array([vote.propensity for vote in rows]),
        reward=np.array([vote.reward for vote in rows]),
        model=model,
    )
    return log, targets[::-1], names, len(votes) - len(rows)
