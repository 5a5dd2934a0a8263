"""Online learning, simulated: queries come one by one, only the chosen candidate's outcome is seen.

The policy state is the one that serves, fed vote by vote. What ``Scenario`` says may happen on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from models.decision.estimates import DecisionDefaults, score
from models.decision.exploration import Exploration, draw, probabilities
from models.encoder.inputs import QueryInputs
from models.evaluation.fitted_router import FittedRouter
from models.learning.policy_state import PolicyState, Vote
from models.predictors.compiled import CompiledPredictors
from models.predictors.fitting import fit_predictors
from models.predictors.predictor import shared_maps
from models.predictors.refitting import GradedAnswers, due, refitted, with_answers

Mode = Literal["offline", "binary", "refined"]
VOTERS: Final = 20
# How often it is looked whether a predictor is due, in queries.
LOOK_EVERY: Final = 250


@dataclass(frozen=True)
class Offline:
    """What was trained before the stream."""

    router: FittedRouter
    defaults: DecisionDefaults


@dataclass(frozen=True)
class Stream:
    """n queries and what every candidate would do on them. quality, cost, prompt_tokens,
    response_tokens: (n, L)."""

    inputs: QueryInputs
    quality: np.ndarray
    cost: np.ndarray
    prompt_tokens: np.ndarray
    response_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Scenario:
    """mode: offline learns nothing; binary from satisfied or not; refined from graded quality, and
    refits predictors. degraded: a candidate whose quality halves at ``change``. new: a candidate that
    is there only from ``change`` on. change: a share of the stream. flipped: share of votes turned
    round. poisoned: share of the voters who always say the opposite. voted: share of answers that
    anybody votes on."""

    mode: Mode
    degraded: int | None = None
    new: int | None = None
    change: float = 0.5
    flipped: float = 0.0
    poisoned: float = 0.0
    voted: float = 1.0
    exploration: Exploration | None = None


@dataclass
class Online:
    """What came of it. picks: (n,). quality, cost: (n,) of the choices, as the scenario made them.
    oracle, fixed: (n,) net worth of the best choice, and of the best fixed candidate. compiled, state:
    at the end. held: voters whose votes did not teach; refits: how many predictors were refitted."""

    picks: np.ndarray
    quality: np.ndarray
    cost: np.ndarray
    oracle: np.ndarray
    fixed: np.ndarray
    compiled: CompiledPredictors
    state: PolicyState
    held: list[str] = field(default_factory=list)
    refits: int = 0

    def worth(self, willingness_to_pay: float) -> np.ndarray:
        """(n,) quality less cost over λ."""
        return np.asarray(self.quality - self.cost / willingness_to_pay)


def simulate(offline: Offline, stream: Stream, scenario: Scenario, seed: int) -> Online:
    """Route the stream and learn on the way."""
    rng = np.random.default_rng(seed)
    n, count = stream.quality.shape
    turn = int(scenario.change * n)
    quality = stream.quality.copy()
    if scenario.degraded is not None:
        quality[turn:, scenario.degraded] *= rng.random(n - turn) < 0.5
    liars = {f"v{i}" for i in range(round(scenario.poisoned * VOTERS))}
    learner = Learner(offline, stream)
    picks = np.zeros(n, dtype=int)
    wtp = offline.defaults.willingness_to_pay
    there = np.ones((n, count), dtype=bool)
    if scenario.new is not None:
        there[:turn, scenario.new] = False
    for i in range(n):
        picks[i] = learner.choose(i, there[i], scenario.exploration, rng)
        voter, voted, flip = f"v{rng.integers(VOTERS)}", rng.random(), rng.random()
        if scenario.mode == "offline" or voted >= scenario.voted:
            continue
        reward = float(quality[i, picks[i]])
        if scenario.mode == "binary":
            reward = float(reward >= 0.5)
        if voter in liars or flip < scenario.flipped:
            reward = 1.0 - reward
        learner.vote(i, int(picks[i]), reward, scenario.mode == "refined", voter, rng.bytes(16))
        if scenario.mode == "refined" and (i + 1) % LOOK_EVERY == 0:
            learner.refit_due()
    rows = np.arange(n)
    worth = np.where(there, quality - stream.cost / wtp, -np.inf)
    always = there.all(axis=0)
    best = int(np.argmax(np.where(always, worth.mean(axis=0), -np.inf)))
    return Online(
        picks=picks,
        quality=quality[rows, picks],
        cost=stream.cost[rows, picks],
        oracle=worth.max(axis=1),
        fixed=worth[:, best],
        compiled=learner.compiled,
        state=learner.state,
        held=learner.state.voters.held,
        refits=learner.refits,
    )


class Learner:
    """The router as it serves: predictors, a policy state, and the log that both come from."""

    def __init__(self, offline: Offline, stream: Stream) -> None:
        self.offline, self.stream = offline, stream
        self.fitted = {found.predictor.llm: found for found in offline.router.fitted}
        self.log: list[tuple[Vote, int]] = []  # votes, and which fit of their candidate predicted
        self.fits = dict.fromkeys(self.fitted, 0)
        self.seen: dict[str, dict[int, float]] = {name: {} for name in self.fitted}
        self.unseen = dict.fromkeys(self.fitted, 0)
        self.refits = 0
        self._compile()

    def _compile(self) -> None:
        predictors = [found.predictor for found in self.fitted.values()]
        self.compiled = CompiledPredictors(
            predictors, self.offline.router.data.catalog, self.offline.router.shrinkage
        )
        self.estimates = self.compiled.estimate(self.stream.inputs)
        self.state = PolicyState.untaught("simulated", self.compiled)
        for vote, fit in self.log:
            if self.fits[vote.llm] == fit:
                self.state.apply(vote)

    def choose(
        self,
        i: int,
        there: np.ndarray,
        exploration: Exploration | None,
        rng: np.random.Generator,
    ) -> int:
        estimates = self.state.refine(self.estimates[i : i + 1], self.stream.inputs.embeddings[i])
        totals = score(estimates, self.offline.defaults).total[0]
        scores = np.where(there, totals, -np.inf)
        chances = probabilities(scores, estimates.cost[0], exploration, self.state.network.votes)
        return draw(chances, rng.random() if exploration is not None else 0.0)

    def vote(
        self, i: int, pick: int, reward: float, graded: bool, voter: str, identity: bytes
    ) -> None:
        name = self.compiled.candidates[pick]
        predicted = float(self.estimates.quality[i, pick])
        embedding = self.stream.inputs.embeddings[i]
        position = len(self.log) + 1
        vote = Vote(position, identity, name, embedding, predicted, reward, graded, voter)
        self.log.append((vote, self.fits[name]))
        held = self.state.counts["held"]
        self.state.apply(vote)
        if graded and self.state.counts["held"] == held:
            self.seen[name][i] = reward
            self.unseen[name] += 1

    def refit_due(self) -> None:
        """Refit whose rows are enough, on the offline rows and all graded ones."""
        rows = {n: f.predictor.metrics["rows"] for n, f in self.fitted.items()}
        names = due(self.unseen, rows)
        if not names:
            return
        answers = self._answers(names)
        router = self.offline.router
        data, inputs = with_answers(router.data, router.inputs, answers)
        maps = shared_maps(router.predictors)
        found = fit_predictors(data, inputs, router.encoder, names, maps=maps)
        for name, fit in zip(names, found, strict=True):
            new = refitted(self.fitted[name].predictor, fit.predictor, float(len(self.log)))
            self.fitted[name] = replace(fit, predictor=new)
            self.fits[name] += 1
            self.unseen[name] = 0
        self.refits += len(names)
        self._compile()

    def _answers(self, names: Sequence[str]) -> GradedAnswers:
        graded = [(i, name, r) for name in names for i, r in self.seen[name].items()]
        rows = np.array([i for i, _, _ in graded])
        columns = np.array([self.compiled.candidates.index(name) for _, name, _ in graded])
        stream = self.stream
        return GradedAnswers(
            ids=[f"stream {i}" for i in rows],
            llms=[name for _, name, _ in graded],
            inputs=replace(stream.inputs[rows], unread=None),
            quality=np.array([reward for _, _, reward in graded]),
            prompt_tokens=stream.prompt_tokens[rows, columns],
            response_tokens=stream.response_tokens[rows, columns],
            cost_usd=stream.cost[rows, columns],
        )
