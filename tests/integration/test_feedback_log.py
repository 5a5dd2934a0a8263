"""The log of votes: each once, corrections kept, in the order of the commits."""

import threading
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from models.release.release import Release
from monitoring.store.decisions import insert_decisions
from monitoring.store.feedback import insert_feedback, last_position, read_feedback
from monitoring.store.tables import feedback
from votes import decide, vote


@pytest.fixture(scope="module")
def release(release_folder: Path) -> Release:
    return Release.load(release_folder)


def test_a_vote_is_there_once_however_often_it_is_written(engine: Engine, release: Release) -> None:
    (decision,) = decide(release, 1)
    insert_decisions(engine, [decision])
    assert last_position(engine) == 0
    row = vote(decision)
    for _ in range(3):
        insert_feedback(engine, [row, row])
    assert len(read_feedback(engine, UUID(decision["id"]))) == 1
    insert_feedback(engine, [vote(decision)])
    assert len(read_feedback(engine, UUID(decision["id"]))) == 1, "it says the same"


def test_a_correction_stands_beside_what_it_corrects(engine: Engine, release: Release) -> None:
    (decision,) = decide(release, 1)
    insert_decisions(engine, [decision])
    yes, no = vote(decision), vote(decision, satisfied=False)
    insert_feedback(engine, [yes, no, vote(decision, satisfied=True)])
    rows = read_feedback(engine, UUID(decision["id"]))
    assert [row["satisfied"] for row in rows] == [True, False, True]
    assert [row["revision"] for row in rows] == [1, 2, 3]
    assert [row["replaced_reward"] for row in rows] == [None, 1.0, 0.0]
    insert_feedback(engine, [yes, no])
    assert len(read_feedback(engine, UUID(decision["id"]))) == 3, "a replay corrects nothing"


def test_every_source_and_key_has_a_vote_of_its_own(engine: Engine, release: Release) -> None:
    (decision,) = decide(release, 1)
    insert_decisions(engine, [decision])
    insert_feedback(
        engine,
        [vote(decision), vote(decision, source="judge"), vote(decision, key_id="k")],
    )
    assert {row["revision"] for row in read_feedback(engine, UUID(decision["id"]))} == {1}


def test_positions_grow_as_commits_do(engine: Engine, release: Release) -> None:
    """A reader that has seen position n has seen every position up to it, ever."""
    decisions = decide(release, 240)
    insert_decisions(engine, decisions)
    seen: list[list[int]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with engine.connect() as connection:
                rows = connection.execute(select(feedback.c.position).order_by("position"))
                seen.append([position for (position,) in rows])

    def write(part: int) -> None:
        for start in range(part, 240, 24):
            insert_feedback(engine, [vote(d) for d in decisions[start : start + 6]])

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(6 * i,)) for i in range(4)]
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    final = [
        p for (p,) in engine.connect().execute(select(feedback.c.position).order_by("position"))
    ]
    assert len(final) == 240
    for snapshot in seen:
        assert snapshot == final[: len(snapshot)]
