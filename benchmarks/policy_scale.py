"""How the log and the learner grow: tables, hot queries, votes a second, from 10,000 decisions on.

    python -m benchmarks.policy_scale [--home DIR] [--decisions 10000 100000 1000000] [--out FILE]

An embedded Postgres of its own; real decisions of the champion of ``--home``, copied inside the server
with ids of their own, and a vote on every fifth.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psutil
from sqlalchemy import Connection, Engine, Select, select, text
from sqlalchemy.dialects import postgresql

from benchmarks.learner_faults import QUESTIONS, champion_folder, subject_of
from infra.database import connect, database_address
from infra.embedded_postgres import embedded_postgres, leave_embedded_postgres
from models.release.release import Release
from monitoring.learning.learner import learn, rebuild
from monitoring.learning.learner import votes_query as learner_query
from monitoring.learning.logged_votes import votes_query as graded_query
from monitoring.learning.policy_states import newest_mark
from monitoring.store.decisions import Asked, DecidedBy, decision_row, insert_decisions
from monitoring.store.feedback import insert_feedback
from monitoring.store.releases import insert_releases, release_row
from monitoring.store.schema import migrate
from monitoring.store.tables import decisions, feedback, policy_states

TEMPLATES: Final = 300
EVERY: Final = 5
TABLES: Final = ("decisions", "feedback", "policy_states")
COPIED: Final = ", ".join(
    column.name for column in decisions.c if column.name not in ("id", "position", "decided_at")
)


def write_templates(engine: Engine, release: Release) -> None:
    """Real decisions, of which all others are copies."""
    insert_releases(engine, [release_row(release.manifest, "1")])
    rows = []
    for i in range(TEMPLATES):
        query = f"{QUESTIONS[i % len(QUESTIONS)]} ({i})"
        routing = release.route(query)
        rows.append(
            decision_row(routing, DecidedBy("1", release.digest), Asked(query, "hash"), 0.005)
        )
    insert_decisions(engine, rows)


def grow(engine: Engine, wanted: int) -> None:
    """Copy decisions until there are so many; vote on every fifth of the new ones."""
    with engine.begin() as connection:
        have = connection.execute(text("SELECT count(*) FROM decisions")).scalar_one()
        first = connection.execute(text("SELECT max(position) FROM decisions")).scalar_one()
        connection.execute(
            text(
                f"WITH template AS (SELECT row_number() OVER (ORDER BY position) - 1 AS number, * "
                f"FROM decisions ORDER BY position LIMIT {TEMPLATES}) "
                f"INSERT INTO decisions (id, decided_at, {COPIED}) "
                f"SELECT gen_random_uuid(), now(), {COPIED} FROM generate_series(1, :count) AS i "
                f"JOIN template ON template.number = i % {TEMPLATES}"
            ),
            {"count": wanted - have},
        )
        connection.execute(
            text(
                "INSERT INTO feedback (id, received_at, decision_id, source, revision, llm, satisfied) "
                "SELECT gen_random_uuid(), now(), id, 'u' || position % 50, 1, llm, "
                f"random() < 0.7 FROM decisions WHERE position > :first AND position % {EVERY} = 0"
            ),
            {"first": first},
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def sizes(connection: Connection) -> dict[str, Any]:
    """Rows and MiB with indexes, by table."""
    found = {}
    for table in TABLES:
        rows = connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
        bytes_ = connection.execute(text(f"SELECT pg_total_relation_size('{table}')")).scalar_one()
        found[table] = {"rows": rows, "MiB": round(bytes_ / 2**20, 1)}
    return found


def plan(connection: Connection, statement: Select[Any]) -> dict[str, Any]:
    """How Postgres answers a query, warm: the scans it uses, and the milliseconds."""
    compiled = statement.compile(
        dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
        compile_kwargs={"literal_binds": True},
    )
    ask = text("EXPLAIN (ANALYZE, FORMAT JSON) " + str(compiled).replace(":", "\\:"))
    for _ in range(2):
        (found,) = connection.execute(ask).scalar_one()
    scans: list[str] = []

    def walk(node: dict[str, Any]) -> None:
        if "Relation Name" in node:
            index = f" by {node['Index Name']}" if "Index Name" in node else ""
            scans.append(f"{node['Node Type']} of {node['Relation Name']}{index}")
        for child in node.get("Plans", []):
            walk(child)

    walk(found["Plan"])
    return {"ms": round(found["Execution Time"], 3), "scans": scans}


def hot_queries(engine: Engine, release: str) -> dict[str, Any]:
    """What runs over and over, at the size of now."""
    with engine.connect() as connection:
        last = connection.execute(text("SELECT max(position) FROM feedback")).scalar_one()
        some = connection.execute(text("SELECT decision_id FROM feedback LIMIT 50")).scalars().all()
        mark = (
            select(policy_states.c.version, policy_states.c.refused)
            .where(policy_states.c.release_digest == release)
            .order_by(policy_states.c.version.desc())
            .limit(1)
        )
        queries = {
            "the learner's, 100 votes behind": learner_query(last - 100, 5000),
            "the learner's, nothing new": learner_query(last, 5000),
            "a service's look for a new state": mark,
            "votes there already, of 50 decisions": select(feedback).where(
                feedback.c.decision_id.in_(some)
            ),
            "a decision": select(decisions.c.llm).where(decisions.c.id == some[0]),
            "off-policy evaluation, the newest 50,000": graded_query(0, graded=False),
        }
        return {name: plan(connection, statement) for name, statement in queries.items()}


def timed(what: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    found = what()
    return found, time.perf_counter() - begun


def measure(engine: Engine, folder: Path, wanted: int) -> dict[str, Any]:
    grow(engine, wanted)
    subject = subject_of(folder)
    learned, seconds = timed(lambda: learn(engine, subject))
    with engine.connect() as connection:
        some = connection.execute(text("SELECT id FROM decisions LIMIT 1")).scalar_one()
    row = {
        "id": str(UUID(int=wanted)),
        "received_at": "2026-01-01T00:00:00+00:00",
        "decision_id": str(some),
        "source": f"probe {wanted}",
        "key_id": None,
        "llm": "x",
        "satisfied": True,
        **dict.fromkeys(("quality", "comment", "prompt_tokens", "response_tokens", "seconds")),
    }
    _, insert_seconds = timed(lambda: insert_feedback(engine, [row]))
    _, one = timed(lambda: learn(engine, subject))
    _, look = timed(lambda: newest_mark(engine, subject.untaught.release))
    with engine.connect() as connection:
        tables = sizes(connection)
    return {
        "decisions": wanted,
        "votes_learned": learned.votes,
        "votes_per_second": round(learned.votes / seconds),
        "insert_one_vote_ms": round(1000 * insert_seconds, 2),
        "learn_one_vote_ms": round(1000 * one, 2),
        "look_for_a_state_ms": round(1000 * look, 2),
        "state_bytes": len(learned.state.dump()),
        "tables": tables,
        "queries": hot_queries(engine, subject.untaught.release),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--decisions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/policy_scale.json"))
    options = parser.parse_args()
    folder = champion_folder(options.home.resolve())
    home = Path(tempfile.mkdtemp())
    server = embedded_postgres(home)
    try:
        engine = connect(database_address(None, home))
        migrate(engine)
        write_templates(engine, Release.load(folder))
        found: dict[str, Any] = {"steps": []}
        for wanted in options.decisions:
            found["steps"].append(measure(engine, folder, wanted))
            print(json.dumps(found["steps"][-1], indent=1), flush=True)
        (learned, same), seconds = timed(lambda: rebuild(engine, subject_of(folder)))
        found["rebuild"] = {"votes": learned.votes, "seconds": round(seconds, 1), "same": same}
        found["process_MiB"] = round(psutil.Process().memory_info().rss / 2**20)
        engine.dispose()
    finally:
        leave_embedded_postgres(server)
        shutil.rmtree(home, ignore_errors=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "steps"}))


if __name__ == "__main__":
    main()
