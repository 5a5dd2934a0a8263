"""What a drift report takes, in time and memory, as the log grows.

    python -m benchmarks.drift_scale [--home DIR] [--decisions 10000 100000 1000000] [--out FILE]

An embedded Postgres of its own with real decisions of the champion of ``--home``, copied inside the
server (``benchmarks.policy_scale``), an answer to each and a vote on every fifth. One window of all of
them is looked at and reported in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from benchmarks.learner_faults import champion_folder
from benchmarks.policy_scale import grow, sizes, write_templates
from infra.database import connect, database_address
from infra.embedded_postgres import embedded_postgres, leave_embedded_postgres
from models.drift.alerts import read_rules
from models.release.manifest import read_manifest
from models.release.release import Release
from monitoring.drift.checks import Sizes, TooEarly, Watched, check_drift
from monitoring.drift.page import Page
from monitoring.drift.report import write_report
from monitoring.store.schema import migrate

REFERENCE = 1000


def answer_all(engine: Engine) -> None:
    """An answer to each decision that has none, near what was predicted."""
    predicted = "(d.scores -> d.llm ->> '{}')::float * (0.7 + 0.6 * random())"
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO answers (decision_id, finished_at, llm, status, attempts, prompt_tokens, "
                "response_tokens, cost_usd, seconds, streamed) "
                "SELECT d.id, d.decided_at, d.llm, 'answered', '[]', 20, "
                f"{predicted.format('response_tokens')}, {predicted.format('cost_usd')}, "
                f"{predicted.format('seconds')}, false FROM decisions d "
                "LEFT JOIN answers a ON a.decision_id = d.id WHERE a.decision_id IS NULL"
            )
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE answers"))


def report(address: str, folder: Path, out: Path) -> dict[str, Any]:
    """Look and report, in this process."""
    engine, manifest = connect(address), read_manifest(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun = time.perf_counter()
    rules, sizes = read_rules(None), Sizes(REFERENCE, 10)
    checked = check_drift(engine, Watched("1", manifest), rules, sizes, force=True)
    looked = time.perf_counter()
    if isinstance(checked, TooEarly):
        raise SystemExit(checked.message)
    compared = checked.compared
    page = Page("scale", compared.reference, compared.window, compared.signals, {}, [], rules)
    write_report(page, out / "window.html", out / "evidently")
    done = time.perf_counter()
    return {
        "decisions": compared.window.total,
        "rows read": len(compared.window),
        "look, s": round(looked - begun, 2),
        "report, s": round(done - looked, 2),
        "MiB before": round(before),
        "MiB at most": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "page, MiB": round((out / "window.html").stat().st_size / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--decisions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/drift_scale.json"))
    parser.add_argument("--one", nargs=3, help="(what each step runs)")
    options = parser.parse_args()
    if options.one:
        address, folder, out = options.one
        print(json.dumps(report(address, Path(folder), Path(out))))
        return
    folder = champion_folder(options.home.resolve())
    home = Path(tempfile.mkdtemp())
    server = embedded_postgres(home)
    steps = []
    try:
        address = database_address(None, home)
        engine = connect(address)
        migrate(engine)
        write_templates(engine, Release.load(folder))
        for wanted in options.decisions:
            grow(engine, wanted)
            answer_all(engine)
            with engine.begin() as connection:
                connection.execute(text("DELETE FROM drift_windows"))
                tables = sizes(connection)
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.drift_scale", "--one"]
            command += [address, str(folder), str(home)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            steps.append({**json.loads(done.stdout), "tables": tables})
            print(json.dumps(steps[-1]), flush=True)
        engine.dispose()
    finally:
        leave_embedded_postgres(server)
        shutil.rmtree(home, ignore_errors=True)
    options.out.write_text(json.dumps(steps, indent=1) + "\n")


if __name__ == "__main__":
    main()
