"""Is every accepted vote learned exactly once? Learners killed, Postgres killed, votes throughout.

    python -m benchmarks.learner_faults [--home DIR] [--kills 100] [--restarts 10] [--out FILE]

A service, two learners at once and the embedded Postgres on a home of their own, with the champion
of ``--home``. Votes are posted over HTTP all the while; a learner is killed (-9) at random moments,
Postgres stopped or killed and started again. What a 2xx said was kept is then looked for in the log
and in the state, and the state rebuilt from the log is held against the served one, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from infra.addresses import free_loopback_port, sqlite_url
from infra.database import connect
from infra.embedded_postgres import embedded_postgres
from infra.registry.records import CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings
from infra.stack.parts import service_alone
from infra.stack.stack import Stack, wait_ready
from models.learning.policy_state import PolicyState, state_digest
from models.release.manifest import read_manifest
from models.release.release import compiled_release
from monitoring.learning.learner import Busy, Subject, learn, newest_good, rebuild
from monitoring.store.releases import Parts
from monitoring.store.tables import feedback

QUESTIONS: Final = (
    "Compute 17 + 4. Give only the number.",
    "How many weeks are 70 days?",
    "Write a sentence about the sea.",
)
# Small, so that a kill falls into the middle of a backlog.
BATCH: Final = 50


def subject_of(folder: Path) -> Subject:
    manifest = read_manifest(folder)
    untaught = PolicyState.untaught(manifest.digest, compiled_release(folder))
    return Subject(untaught, Parts.of(manifest))


def learn_for_ever(address: str, folder: Path) -> None:
    """What a learner process does until it is killed."""
    engine, subject = connect(address), subject_of(folder)
    print("ready", flush=True)
    while True:
        try:
            if not learn(engine, subject, batch=BATCH).votes:
                time.sleep(0.02)
        except (Busy, SQLAlchemyError):
            time.sleep(0.02)


class Voter(threading.Thread):
    """Posts votes until it is stopped. accepted: (decision, source) of every 2xx."""

    def __init__(self, address: str, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.address, self.number, self.ended = address, number, stop
        self.accepted: set[tuple[str, str]] = set()
        self.refused = 0

    def run(self) -> None:
        rng = np.random.default_rng(self.number)
        with httpx.Client(base_url=self.address, timeout=60) as client:
            while not self.ended.is_set():
                try:
                    self._one(client, rng)
                except httpx.HTTPError:
                    self.refused += 1

    def _one(self, client: httpx.Client, rng: np.random.Generator) -> None:
        body = {"query": QUESTIONS[int(rng.integers(len(QUESTIONS)))]}
        decision = client.post("/v1/route", json=body).json()["decision_id"]
        source = f"u{rng.integers(8)}"
        vote = {"decision_id": decision, "satisfied": bool(rng.random() < 0.7), "source": source}
        for _ in range(1 + int(rng.integers(2))):  # half of them sent twice, as a retry would be
            if client.post("/v1/feedback", json=vote).is_success:
                self.accepted.add((decision, source))
            else:
                self.refused += 1


def stop_postgres(home: Path, hard: bool) -> None:
    """Stop the embedded server, or kill it and all its processes."""
    server = embedded_postgres(home)
    process = psutil.Process(server.get_pid())
    family = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGKILL if hard else signal.SIGINT)
    psutil.wait_procs(family, timeout=20)


def start_learner(address: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.learner_faults", "--learner", address]
    return subprocess.Popen([*command, "--release", str(folder)], stdout=subprocess.PIPE)


def champion_folder(home: Path) -> Path:
    registry = Registry.of(Settings(home=home))
    version = registry.alias(CHAMPION)
    assert version is not None, "no champion in --home"
    return registry.fetch(version)


def run(source: Path, kills: int, restarts: int, seed: int) -> dict[str, Any]:
    fetched = champion_folder(source)
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folder = home / "registry" / "releases" / "1"
        shutil.copytree(fetched, folder)
        (home / "registry" / "current-release").write_text("1")
        settings = Settings(home=home, port=free_loopback_port())
        stack = Stack(settings, print)
        empty = {"MIXLLM_MLFLOW_URI": sqlite_url(home / "mlflow.db")}
        begun = time.monotonic()
        try:
            stack.start(service_alone(MIXLLM_POLICY_SECONDS="1", **empty))
            wait_ready(settings)
            found = torment(stack, settings, folder, kills, restarts, rng)
        finally:
            stack.stop()
        return {**found, "kills": kills, "restarts": restarts, "seconds": time.monotonic() - begun}


def torment(
    stack: Stack,
    settings: Settings,
    folder: Path,
    kills: int,
    restarts: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    stop = threading.Event()
    voters = [Voter(settings.service_url, i, stop) for i in range(3)]
    for voter in voters:
        voter.start()
    learners = [start_learner(stack.database, folder) for _ in range(2)]
    down = set(np.linspace(3, kills - 3, restarts).astype(int).tolist())
    for number in range(kills):
        victim = number % 2
        pipe = learners[victim].stdout
        assert pipe is not None
        pipe.readline()  # it has begun to learn
        time.sleep(float(rng.exponential(0.25)))
        learners[victim].kill()
        learners[victim].wait()
        if number in down:
            stop_postgres(settings.home, hard=bool(number % 2))
            time.sleep(float(rng.uniform(0.2, 2.0)))
            assert embedded_postgres(settings.home).is_running()
        learners[victim] = start_learner(stack.database, folder)
        if number % 10 == 9:
            print(f"{number + 1} kills, {sum(len(v.accepted) for v in voters)} votes", flush=True)
    stop.set()
    for voter in voters:
        voter.join()
    for process in learners:
        process.kill()
        process.wait()
    return check(stack, settings, folder, voters)


def check(stack: Stack, settings: Settings, folder: Path, voters: list[Voter]) -> dict[str, Any]:
    """What was accepted, what is in the log, what is in the state."""
    address = f"{settings.service_url}/v1/release"
    deadline = time.monotonic() + 120
    while httpx.get(address).json()["unwritten_feedback"] and time.monotonic() < deadline:
        time.sleep(0.2)
    engine, subject = connect(stack.database), subject_of(folder)
    while True:
        try:
            state = learn(engine, subject).state
            break
        except Busy:  # Postgres has not noticed yet that the last one is dead
            time.sleep(0.2)
    with engine.connect() as connection:
        columns = select(feedback.c.decision_id, feedback.c.source)
        logged = [(str(d), s) for d, s in connection.execute(columns)]
        twice = connection.execute(
            select(func.count()).select_from(feedback).where(feedback.c.revision > 1)
        ).scalar_one()
    _, same = rebuild(engine, subject)
    stored = newest_good(engine, subject.untaught.release)
    assert stored is not None
    deadline = time.monotonic() + 60
    while httpx.get(address).json()["policy"]["version"] != stored.version:
        assert time.monotonic() < deadline, "the service does not serve the newest state"
        time.sleep(0.2)
    files = sorted((settings.home / "policy").glob("*.safetensors"))
    served = state_digest(files[-1].read_bytes()) == state_digest(stored.state.dump())
    accepted = set().union(*(voter.accepted for voter in voters))
    engine.dispose()
    return {
        "accepted": len(accepted),
        "in_the_log": len(logged),
        "accepted_but_not_in_the_log": len(accepted - set(logged)),
        "in_the_log_twice": len(logged) - len(set(logged)) + int(twice),
        "in_the_state": state.counts["applied"] + state.counts["held"],
        "passed_over": state.passed_over,
        "rebuilt_is_the_same": same,
        "served_is_the_same": served,
        "requests_refused": sum(voter.refused for voter in voters),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learner_faults.json"))
    parser.add_argument("--learner", help="be a learner of this database", default=None)
    parser.add_argument("--release", type=Path, help="the learner's release folder")
    options = parser.parse_args()
    if options.learner is not None:
        learn_for_ever(options.learner, options.release)
    found = run(options.home.resolve(), options.kills, options.restarts, options.seed)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
