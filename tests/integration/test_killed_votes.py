"""Votes of a process that is killed in the middle of a burst: each acknowledged one is there once."""

import os
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import Engine, func, select

from monitoring.store.feedback import insert_feedback
from monitoring.store.inserter import Sink
from monitoring.store.journal import Journal
from monitoring.store.rows import check_table
from monitoring.store.tables import feedback

BURST = """
import sys, threading
from pathlib import Path
from infra.database import connect
from monitoring.store.feedback import insert_feedback
from monitoring.store.inserter import Sink
from monitoring.store.journal import Journal
from votes import vote
from monitoring.store.decisions import new_id
engine = connect(sys.argv[2])
sink = Sink(lambda rows: insert_feedback(engine, rows))
journal = Journal(Path(sys.argv[1]), sink, 0.01, synced=True)
journal.start()
lock = threading.Lock()
def burst():
    while True:
        row = vote({"id": str(new_id()), "llm": "a"})
        journal.append(row)
        with lock:
            print(row["id"], flush=True)
for _ in range(4):
    threading.Thread(target=burst).start()
"""
ACKNOWLEDGED = 300


def test_each_acknowledged_vote_is_there_once(engine: Engine, tmp_path: Path) -> None:
    address = engine.url.render_as_string(hide_password=False)
    folder, support = tmp_path / "journal", Path(__file__).parents[1] / "support"
    acknowledged: set[str] = set()
    for _ in range(2):  # the second takes over what the first left, and is killed too
        process = subprocess.Popen(
            [sys.executable, "-c", BURST, str(folder), address],
            env={**os.environ, "PYTHONPATH": f"{support}{os.pathsep}{support.parents[1]}"},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        lines: list[bytes] = []
        while len(lines) < ACKNOWLEDGED:
            lines.append(process.stdout.readline())
        process.kill()
        lines += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        acknowledged |= {line.decode().strip() for line in lines if line.endswith(b"\n")}
    last = Journal(
        folder,
        Sink(
            lambda rows: insert_feedback(engine, rows),
            check=lambda: check_table(engine, feedback),
        ),
        60,
        synced=True,
    )
    deadline = time.monotonic() + 30
    while last.files.count() and time.monotonic() < deadline:
        last.flush()
    last.close()
    with engine.connect() as connection:
        ids = [str(i) for i in connection.execute(select(feedback.c.id)).scalars()]
        decisions = connection.execute(
            select(func.count(feedback.c.decision_id.distinct()))
        ).scalar_one()
    assert acknowledged <= set(ids)
    assert len(ids) == len(set(ids)) == decisions
    # At most the votes that each of four threads was just acknowledging are there beyond those.
    assert len(ids) - len(acknowledged) <= 2 * 4
    assert last.dead_letters.count() == 0
