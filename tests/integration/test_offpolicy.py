"""Off-policy evaluation from a log in Postgres, against what is known of the log."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from models.decision.exploration import Exploration
from models.decision.wishes import Wishes
from models.learning.off_policy import compare_policies
from models.release.release import Release, RouteContext
from monitoring.learning.logged_votes import graded_answers, logged_votes, read_votes
from monitoring.store.decisions import Asked, DecidedBy, decision_row, insert_decisions
from monitoring.store.feedback import insert_feedback
from monitoring.store.releases import insert_releases, release_row
from votes import QUERIES, vote

COUNT = 600


@pytest.fixture(scope="module")
def release(release_folder: Path) -> Release:
    return Release.load(release_folder)


def write_log(engine: Engine, release: Release, truth: dict[str, float]) -> None:
    """Explored decisions, and votes by a truth per candidate."""
    rng = np.random.default_rng(0)
    wishes = Wishes(exploration=Exploration(kind="epsilon", epsilon=0.6))
    insert_releases(engine, [release_row(release.manifest, "1")])
    by = DecidedBy("1", release.digest)
    decisions, votes = [], []
    for i in range(COUNT):
        query = QUERIES[i % len(QUERIES)]
        routing = release.route(query, RouteContext(wishes, number=float(rng.random())))
        decisions.append(decision_row(routing, by, Asked(query, "hash"), 0.001))
        reward = float(rng.random() < truth[routing.decision.llm])
        graded = {"satisfied": None, "quality": reward, "prompt_tokens": 9, "response_tokens": 30}
        votes.append(vote(decisions[-1], source=f"u{i % 4}", **graded))
    insert_decisions(engine, decisions)
    insert_feedback(engine, votes)


def test_what_a_release_would_have_earned(engine: Engine, release: Release) -> None:
    rng = np.random.default_rng(1)
    truth = {name: float(rng.uniform(0.2, 0.9)) for name in release.candidates}
    write_log(engine, release, truth)
    votes = read_votes(engine, release.manifest, held=[])
    assert len(votes) == COUNT
    defaults = release.manifest.defaults
    greedy = defaults.model_copy(update={"willingness_to_pay": 1e9})
    pair = [(release.compiled, defaults), (release.compiled, greedy)]
    log, targets, names, unusable = logged_votes(votes, pair)
    assert (len(log), unusable) == (COUNT, 0)
    assert names == sorted(release.candidates)
    for target in targets:
        assert target.sum(axis=1) == pytest.approx(np.ones(COUNT))
    comparison = compare_policies(log, {"a": targets[0], "b": targets[1]}, "a", "b")
    for name, target in zip("ab", targets, strict=True):
        true = float((target * np.array([truth[n] for n in names])).sum(axis=1).mean())
        estimate = comparison["policies"][name]["dr"]
        width = estimate["high"] - estimate["low"]
        assert estimate["low"] - width / 2 < true < estimate["high"] + width / 2
    best = max(truth, key=lambda name: truth[name])
    assert truth[names[comparison["best_single"]]] > truth[best] - 0.15


def test_a_plain_release_is_who_it_routes_to(engine: Engine, release: Release) -> None:
    """Decided again from what the log holds, the choice is the same."""
    write_log(engine, release, dict.fromkeys(release.candidates, 0.5))
    votes = read_votes(engine, release.manifest, held=[])
    _, (target,), names, _ = logged_votes(votes, [(release.compiled, release.manifest.defaults)])
    wanted = [release.route(QUERIES[i % len(QUERIES)]).decision.llm for i in range(COUNT)]
    assert [names[i] for i in target.argmax(axis=1)] == wanted


def test_votes_of_the_held_and_of_strangers_are_left_out(engine: Engine, release: Release) -> None:
    write_log(engine, release, dict.fromkeys(release.candidates, 0.5))
    votes = read_votes(engine, release.manifest, held=["source:u1"], graded=True)
    assert votes.left_out == {"a held voter": COUNT // 4}
    logged = graded_answers(votes, release.candidates)
    answers, positions = logged.answers, logged.positions
    assert len(answers) == len(positions) == COUNT - COUNT // 4
    assert (np.diff(positions) > 0).all()
    assert set(answers.response_tokens) == {30.0}
    encoder = release.manifest.encoder.model_copy(update={"encoder": "another encoder"})
    other = release.manifest.model_copy(update={"encoder": encoder})
    none = read_votes(engine, other, held=[])
    assert (len(none), none.left_out) == (0, {"another encoder": COUNT})
