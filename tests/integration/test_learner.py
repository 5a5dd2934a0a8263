"""The learner: every vote exactly once, whatever happens; bad states are never used."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, update

from models.errors import StoreError
from models.learning.policy_state import PolicyState, state_digest
from models.release.change import remove_candidate
from models.release.release import Release
from monitoring.learning import learner
from monitoring.learning.learner import (
    Busy,
    learn,
    leave_out,
    newest_good,
    rebuild,
    roll_back,
    take_turn,
)
from monitoring.learning.policy_states import list_states, newest_mark
from monitoring.store.decisions import insert_decisions
from monitoring.store.feedback import insert_feedback, last_position
from monitoring.store.releases import Parts, insert_releases, release_row
from monitoring.store.tables import policy_states
from votes import decide, fill, subject_of, vote


@pytest.fixture(scope="module")
def release(release_folder: Path) -> Release:
    return Release.load(release_folder)


def served(engine: Engine, release: Release) -> PolicyState:
    stored = newest_good(engine, release.digest)
    assert stored is not None
    return stored.state


def test_every_vote_is_learned_once_and_a_rebuilt_state_is_the_same_bytes(
    engine: Engine, release: Release
) -> None:
    fill(engine, release, 60)
    subject = subject_of(release)
    result = learn(engine, subject, batch=17)
    assert result.votes == 60
    assert result.state.counts["applied"] == 60
    assert result.state.cursor == last_position(engine)
    again = learn(engine, subject)
    assert (again.votes, again.version) == (0, result.version)
    learned, same = rebuild(engine, subject)
    assert same
    assert learned.version == result.version
    assert subject.untaught.cursor == 0, "the release's own state is left as it is"


def test_without_votes_there_is_no_state(engine: Engine, release: Release) -> None:
    result = learn(engine, subject_of(release))
    assert (result.version, result.votes) == (None, 0)
    assert newest_mark(engine, release.digest) is None


def test_two_learners_cannot_both_write(engine: Engine, release: Release) -> None:
    fill(engine, release, 10)
    subject = subject_of(release)
    with engine.begin() as connection:
        take_turn(connection)
        with pytest.raises(Busy):
            learn(engine, subject)
        with pytest.raises(Busy):
            rebuild(engine, subject)
    assert learn(engine, subject).votes == 10


def test_learners_at_once_apply_each_vote_once(engine: Engine, release: Release) -> None:
    subject = subject_of(release)
    insert_releases(engine, [release_row(release.manifest, "1")])
    decisions = decide(release, 200)
    insert_decisions(engine, decisions)
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        while not stop.is_set():
            try:
                learn(engine, subject)
            except Busy:
                time.sleep(0.005)
            except BaseException as error:  # noqa: BLE001 - the test fails by it below
                failures.append(error)
                return

    workers = [threading.Thread(target=work) for _ in range(2)]
    for thread in workers:
        thread.start()
    for start in range(0, 200, 8):
        insert_feedback(engine, [vote(d) for d in decisions[start : start + 8]])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stored = newest_good(engine, release.digest)
        if stored is not None and stored.state.counts["applied"] == 200:
            break
        time.sleep(0.05)
    stop.set()
    for thread in workers:
        thread.join()
    assert failures == []
    assert served(engine, release).counts["applied"] == 200
    assert rebuild(engine, subject)[1]


KILLED = """
import sys
from pathlib import Path
from infra.database import connect
from models.release.release import Release
from models.release.change import remove_candidate
from monitoring.learning import learner
from votes import subject_of
engine, subject = connect(sys.argv[1]), subject_of(Release.load(Path(sys.argv[2])))
print("ready", flush=True)
while True:
    try:
        learner.learn(engine, subject, batch=7)
    except learner.Busy:
        pass
"""


def test_a_learner_killed_at_any_moment_applies_each_vote_once(
    engine: Engine, empty_database: str, release: Release, release_folder: Path
) -> None:
    insert_releases(engine, [release_row(release.manifest, "1")])
    decisions = decide(release, 400)
    insert_decisions(engine, decisions)
    rng = np.random.default_rng(0)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    for round_ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, empty_database, str(release_folder)],
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        insert_feedback(engine, [vote(d) for d in decisions[80 * round_ : 80 * round_ + 80]])
        time.sleep(float(rng.uniform(0.01, 0.15)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 20  # Postgres ends a dead client's transaction when it notices
    while True:
        try:
            result = learn(engine, subject_of(release))
            break
        except Busy:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert result.state.counts["applied"] == 400
    assert result.state.cursor == last_position(engine)
    assert rebuild(engine, subject_of(release))[1]


def spoiled(state: PolicyState, kind: str) -> bytes:
    data = bytearray(state.dump())
    if kind == "cut":
        return bytes(data[:-100])
    arrays = {"NaN": np.nan, "not positive definite": None}
    inverse = state.inverses[0]
    if kind == "wrong shape":
        return state.dump().replace(b'"shape":[', b'"shape":[9,', 1)
    place = bytes(data).find(inverse.tobytes())
    value = np.full_like(inverse, arrays[kind]) if kind == "NaN" else -inverse
    data[place : place + inverse.nbytes] = value.tobytes()
    return bytes(data)


@pytest.mark.parametrize("kind", ["NaN", "not positive definite", "wrong shape", "cut", "changed"])
def test_a_corrupted_state_is_marked_and_learned_anew(
    engine: Engine, release: Release, kind: str
) -> None:
    fill(engine, release, 20)
    subject = subject_of(release)
    first = learn(engine, subject)
    insert_feedback(engine, [vote(d) for d in _more(engine, release, 10)])
    second = learn(engine, subject)
    assert second.version != first.version
    values: dict[str, Any] = {"digest": "0" * 64}
    if kind != "changed":
        data = spoiled(second.state, kind)
        values = {"state": data, "digest": state_digest(data)}
    with engine.begin() as connection:
        row = policy_states.c.version == second.version
        connection.execute(update(policy_states).where(row).values(**values))
    stored = newest_good(engine, release.digest)
    assert stored is not None
    assert stored.version == first.version, "the last good one"
    (row_of_it,) = (r for r in list_states(engine) if r["version"] == second.version)
    assert row_of_it["refused"] is None, "a read marks nothing"
    healed = learn(engine, subject)
    (row_of_it,) = (r for r in list_states(engine) if r["version"] == second.version)
    assert row_of_it["refused"]
    assert healed.state.dump() == second.state.dump()
    assert healed.votes == 10


def _more(engine: Engine, release: Release, count: int) -> list[dict[str, Any]]:
    decisions = decide(release, count)
    insert_decisions(engine, decisions)
    return decisions


def test_rolled_back_votes_teach_nothing_any_more(engine: Engine, release: Release) -> None:
    subject = subject_of(release)
    fill(engine, release, 20)
    first = learn(engine, subject)
    insert_feedback(engine, [vote(d, satisfied=False) for d in _more(engine, release, 15)])
    second = learn(engine, subject)
    assert first.version is not None
    made = roll_back(engine, first.version, "a bad stream")
    state = served(engine, release)
    assert state.counts == first.state.counts
    assert state.cursor == second.state.cursor
    learned, same = rebuild(engine, subject)
    assert same, "the log gives the state that was rolled back to"
    assert learned.version == made
    insert_feedback(engine, [vote(d) for d in _more(engine, release, 5)])
    assert learn(engine, subject).state.counts["applied"] == 25
    assert rebuild(engine, subject)[1]
    # Back to a state from before the roll-back: what it had learned counts again.
    assert second.version is not None
    roll_back(engine, second.version, "it was right")
    assert served(engine, release).counts["applied"] == 35
    assert rebuild(engine, subject)[1]
    with pytest.raises(StoreError, match="no policy state 999"):
        roll_back(engine, 999, "none")


def test_a_voter_left_out_is_out_after_a_rebuild(engine: Engine, release: Release) -> None:
    votes = fill(engine, release, 40)
    subject = subject_of(release)
    learn(engine, subject)
    leave_out(engine, "source:u1", "poison")
    learned, same = rebuild(engine, subject)
    assert not same
    others = sum(row["source"] != "u1" for row in votes)
    assert learned.state.counts["applied"] == others
    assert "source:u1" not in learned.state.voters.voters


def test_votes_on_other_releases_count_where_the_predictor_is_the_same(
    engine: Engine, release: Release
) -> None:
    fill(engine, release, 10)
    subject = subject_of(release)
    heirs = PolicyState.untaught("another release", release.compiled)
    changed = {**subject.parts.predictors, release.candidates[0]: "refitted"}
    for parts, taught in (
        (subject.parts, 10),
        (Parts(subject.parts.encoder, changed), None),
        (Parts("another encoder", subject.parts.predictors), 0),
    ):
        state = heirs.copy()
        with engine.begin() as connection:
            learner.replay(connection, learner.Subject(heirs, parts), state, 100)
        applied = state.counts["applied"]
        passed = sum(state.passed_over.values())
        assert applied + passed == 10
        if taught is not None:
            assert applied == taught


def test_heads_go_and_come_with_candidates(
    engine: Engine, release: Release, release_folder: Path, tmp_path: Path
) -> None:
    """A release without a candidate learns the votes on the others; the old one knows all still."""
    votes = fill(engine, release, 40)
    first = learn(engine, subject_of(release))
    chosen = [row["llm"] for row in votes]
    gone = max(set(chosen), key=chosen.count)
    remove_candidate(release_folder, tmp_path / "fewer", gone)
    fewer = Release.load(tmp_path / "fewer")
    state = learn(engine, subject_of(fewer)).state
    assert state.candidates == [name for name in release.candidates if name != gone]
    assert state.counts["applied"] == 40 - chosen.count(gone)
    assert sum(state.passed_over.values()) == chosen.count(gone)
    assert served(engine, release).dump() == first.state.dump()


def test_old_states_go(engine: Engine, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitoring.learning.policy_states.KEPT", 3)
    fill(engine, release, 20)
    learn(engine, subject_of(release), batch=2)
    assert len(list_states(engine)) == 3
