"""The story of drift: real outcomes replayed as traffic through the running stack, five things happen.

    python -m benchmarks.drift_story --data DIR [--out DIR] [--parts abcde] [--restart]

An evaluation set without one subject trains the first release. Then chat completions go through the
service to a simulated fleet, and graded votes come back: (a) nothing happens, (b) the most chosen LLM
gets worse, (c) the subject never trained on arrives, (d) the most chosen LLM becomes slow, (e) some
voters lie. Windows, reports, alerts, repairs are the stack's own; promotions are what MLflow's pages do.
--restart kills every process of the stack in the middle of (b).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil
from sqlalchemy import Engine, func, select

from infra.addresses import free_loopback_port
from infra.embedded_postgres import embedded_postgres
from infra.fleet.answers import Answer, Answers, RecordedAnswers
from infra.fleet.server import Fleet, with_upstreams
from infra.fleet.thread import FleetThread
from infra.registry.records import CHALLENGER, CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings, read_settings
from infra.stack.parts import local_parts
from infra.stack.stack import Stack, wait_ready
from models.data.evaluation_set import EvaluationSet
from models.data.files import read_evaluation_set, write_evaluation_set
from models.release.manifest import read_manifest
from monitoring.drift.alert_log import list_alerts
from monitoring.drift.window_log import list_windows
from monitoring.learning.policy_states import list_states
from monitoring.store.schema import open_store
from monitoring.store.shadows import shadow_summary
from monitoring.store.tables import feedback

CLIENTS: Final = 8
USERS: Final = 20
LIARS: Final = 4
VOTES: Final = 0.7
# Windows that the liars are watched for after the first was flagged.
MORE: Final = 8
PATIENCE: Final = 150.0
WORSE_BY: Final = 0.7


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class ChangingAnswers:
    """Recorded answers, of which some LLMs' get worse: a share of the right ones become wrong."""

    def __init__(self, recorded: Answers) -> None:
        self.recorded = recorded
        self.worse: dict[str, float] = {}

    def find(self, llm: str, query: str) -> Answer:
        answer = self.recorded.find(llm, query)
        if self.worse.get(llm) and answer.quality is not None:
            drawn = hashlib.sha256(f"{llm} {query.strip()}".encode()).digest()[0] / 256
            if drawn < self.worse[llm]:
                return replace(answer, quality=0.0)
        return answer


@dataclass(frozen=True)
class Sent:
    """One query as its client saw it. quality: true. voted: whether the vote was accepted."""

    llm: str
    quality: float
    seconds: float
    voted: bool


class Traffic:
    """Clients that ask, and users that vote; what fails is sent again, as clients do."""

    def __init__(self, settings: Settings, answers: ChangingAnswers, seed: int = 0) -> None:
        self.settings, self.answers = settings, answers
        self.rng = np.random.default_rng(seed)
        self.liars: set[str] = set()
        self.sent: list[Sent] = []
        self.accepted: set[tuple[str, str]] = set()

    def send(self, queries: Sequence[str]) -> list[Sent]:
        """Ask them all, several at a time."""
        plans = [
            (query, f"user-{self.rng.integers(USERS)}", bool(self.rng.random() < VOTES))
            for query in queries
        ]
        with (
            httpx.Client(base_url=self.settings.service_url, timeout=60) as client,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            sent = list(pool.map(lambda plan: self.one(client, *plan), plans))
        self.sent += sent
        return sent

    def one(self, client: httpx.Client, query: str, user: str, votes: bool) -> Sent:
        begun = time.monotonic()
        body = {"model": "mixllm", "messages": [{"role": "user", "content": query}]}
        answer = persist(client, "/v1/chat/completions", body)
        seconds = time.monotonic() - begun
        told = answer["mixllm"]
        quality = self.answers.find(told["llm"], query).quality or 0.0
        if votes:
            said = 1.0 - quality if user in self.liars else quality
            vote = {"decision_id": told["decision_id"], "source": user, "quality": said}
            persist(client, "/v1/feedback", vote)
            self.accepted.add((told["decision_id"], user))
        return Sent(told["llm"], quality, seconds, votes)


def persist(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer; tries again while the service is away."""
    deadline = time.monotonic() + 180
    while True:
        try:
            response = client.post(path, json=body)
            if response.status_code < 500:
                response.raise_for_status()
                answer: dict[str, Any] = response.json()
                return answer
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} is not answered for 180 s")
        time.sleep(0.3)


class Story:
    """The stack, its traffic, and what is noted of both."""

    def __init__(self, options: argparse.Namespace, whole: EvaluationSet) -> None:
        self.options, self.whole = options, whole
        self.settings = read_settings()
        self.registry = Registry.of(self.settings)
        self.stack = Stack(self.settings, say)
        self.stop = threading.Event()
        self.watcher = threading.Thread(target=self.stack.watch, args=(self.stop,), daemon=True)
        self.notes: dict[str, Any] = {"window": options.window, "reference": options.reference}
        self.rng = np.random.default_rng(options.seed)
        subject = whole.queries["source"] == options.subject
        texts = whole.queries["query"]
        self.known = texts[~subject].to_numpy()
        self.strange = texts[subject].to_numpy()

    @property
    def engine(self) -> Engine:
        return open_store(self.settings)

    def draw(self, count: int, strange: float = 0.0) -> list[str]:
        """Queries of the known subjects, and a share of the strange one."""
        odd = self.rng.random(count) < strange
        return [
            str(self.rng.choice(self.strange if is_odd else self.known)) for is_odd in odd.tolist()
        ]

    def window(self, traffic: Traffic, strange: float = 0.0) -> dict[str, Any]:
        """Send a window's queries, wait until the stack has looked at it."""
        seen = self.last_window()
        deadline = time.monotonic() + PATIENCE * 4
        sent: list[Sent] = []
        while time.monotonic() < deadline:
            sent += traffic.send(self.draw(self.options.window, strange))
            waited = time.monotonic()
            while time.monotonic() - waited < (PATIENCE if self.referenced(len(sent)) else 2.0):
                if (found := self.last_window()) != seen:
                    row = next(r for r in list_windows(self.engine) if r["id"] == found)
                    return self.noted(row, sent)
                time.sleep(1.0)
        raise SystemExit("no window was checked: see the logs of flows and prefect")

    def referenced(self, sent: int) -> bool:
        """Whether what was sent can fill a window: the first ones of a release are its reference."""
        return sent > self.options.reference or bool(
            [r for r in list_windows(self.engine, 1) if r["release_version"] == self.champion()]
        )

    def noted(self, row: Mapping[str, Any], sent: Sequence[Sent]) -> dict[str, Any]:
        shares = Counter(s.llm for s in sent)
        lit = sorted(
            {f"{s['alert']} {s['subject'] or ''}".strip() for s in row["signals"] if s["lit"]}
        )
        found = {
            "window": row["id"],
            "release": row["release_version"],
            "decisions": row["decisions"],
            "sent": len(sent),
            "quality": round(float(np.mean([s.quality for s in sent])), 4),
            "seconds": round(float(np.mean([s.seconds for s in sent])), 3),
            "unseen share": row["figures"]["unseen share"],
            "largest": f"{shares.most_common(1)[0][0]} {shares.most_common(1)[0][1] / len(sent):.0%}",
            "lit": lit,
        }
        say(
            f"  window {row['id']} (release {row['release_version']}): quality "
            f"{found['quality']:.3f}, {found['largest']}, lit: {', '.join(lit) or 'nothing'}"
        )
        return found

    def last_window(self) -> int:
        rows = list_windows(self.engine, 1)
        return int(rows[0]["id"]) if rows else 0

    def champion(self) -> str:
        return str(self.registry.alias(CHAMPION))

    def until_alert(
        self, traffic: Traffic, name: str, subject: str | None = None, strange: float = 0.0,
        most: int = 12, on_raise: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:  # fmt: skip
        """Send windows until an alert is raised and its repair has ended."""
        windows, queries = [], 0
        known = {row["id"] for row in list_alerts(self.engine)}
        for _ in range(most):
            windows.append(self.window(traffic, strange))
            queries += windows[-1]["sent"]
            mine = [
                r
                for r in list_alerts(self.engine)
                if r["id"] not in known and r["name"] == name and subject in (None, r["subject"])
            ]
            if mine:
                say(f"  alert {mine[0]['id']}: {name} {mine[0]['subject'] or ''}")
                on_raise()
                closed = self.until_closed(mine[0]["id"], traffic, strange)
                others = [
                    f"{r['name']} {r['subject'] or ''}".strip()
                    for r in list_alerts(self.engine)
                    if r["id"] not in known and r["id"] != mine[0]["id"]
                ]
                return {
                    "alert": mine[0]["id"],
                    "subject": mine[0]["subject"],
                    "queries until raised": queries,
                    "outcome": closed["outcome"],
                    "other alerts": others,
                    "windows": windows,
                }
        return {"alert": None, "queries": queries, "windows": windows}

    def until_closed(self, number: int, traffic: Traffic, strange: float) -> dict[str, Any]:
        """Traffic goes on while the repair runs."""
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            row = next(r for r in list_alerts(self.engine) if r["id"] == number)
            if row["state"] == "closed":
                say(f"  alert {number} closed: {row['outcome']}")
                return row
            traffic.send(self.draw(40, strange))
            time.sleep(3.0)
        raise SystemExit(f"alert {number} is still open after 15 minutes")

    def promote_challenger(self) -> str | None:
        """What a person does in MLflow's pages: the alias moves, the service follows."""
        version = self.registry.alias(CHALLENGER)
        if version is None or version == self.champion():
            return None
        self.registry.client.set_registered_model_alias("mixllm-router", CHAMPION, version)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            told = httpx.get(f"{self.settings.service_url}/v1/release", timeout=10).json()
            if told.get("version") == version:
                say(f"  release {version} promoted, answers")
                return version
            time.sleep(1.0)
        raise SystemExit(f"the service does not take release {version}: {told.get('last_error')}")

    def after_promotion(self, traffic: Traffic, strange: float = 0.0) -> dict[str, Any]:
        """Whether the challenger came to answer, and how it does: two windows past its reference."""
        said = None
        version = self.registry.alias(CHALLENGER)
        if version is not None:
            time.sleep(2 * self.settings.poll_seconds)  # by now it decides in shadow
            traffic.send(self.draw(self.options.window // 2, strange))
            time.sleep(3.0)
            said = self.shadow(version)
            say(f"  {said}")
        promoted = self.promote_challenger()
        if promoted is None:
            return {"promoted": None}
        windows = [self.window(traffic, strange) for _ in range(2)]
        return {"promoted": promoted, "in shadow": said, "windows after": windows}

    def shadow(self, version: str) -> str | None:
        return shadow_summary(self.engine, read_manifest(self.registry.fetch(version)).digest)

    # --- the five parts -------------------------------------------------------------------------

    def quiet(self, traffic: Traffic) -> dict[str, Any]:
        say(f"(a) nothing happens, {self.options.quiet} windows")
        windows = [self.window(traffic) for _ in range(self.options.quiet)]
        raised = [f"{r['name']} {r['subject'] or ''}" for r in list_alerts(self.engine)]
        return {"windows": windows, "alerts": raised}

    def most_chosen(self, traffic: Traffic) -> str:
        return Counter(s.llm for s in traffic.sent[-self.options.window :]).most_common(1)[0][0]

    def worse(self, traffic: Traffic) -> dict[str, Any]:
        llm = self.most_chosen(traffic)
        before = quality_of(traffic.sent[-3 * self.options.window :])
        say(f"(b) {llm} gets worse, without a word")
        traffic.answers.worse[llm] = WORSE_BY
        begin = len(traffic.sent)
        restart = self.restart if self.options.restart else lambda: None
        found = self.until_alert(traffic, "predictor-drift", llm, on_raise=restart)
        during = quality_of(traffic.sent[begin:])
        found |= {"llm": llm, "quality before": before, "quality during": during}
        begin = len(traffic.sent)
        found |= self.after_promotion(traffic)
        found["quality after"] = quality_of(traffic.sent[begin:])
        share = Counter(s.llm for s in traffic.sent[begin:])[llm] / max(
            len(traffic.sent) - begin, 1
        )
        found["its share after"] = round(share, 3)
        return found

    def strangers(self, traffic: Traffic) -> dict[str, Any]:
        say(f"(c) half of the queries are of a subject never trained on: {self.options.subject}")
        found = self.until_alert(traffic, "unseen-domains", strange=0.5)
        return found | self.after_promotion(traffic, strange=0.5)

    def slow(self, traffic: Traffic, fleet: Fleet) -> dict[str, Any]:
        llm = self.most_chosen(traffic)
        say(f"(d) {llm} becomes ten times as slow")
        before = Counter(s.llm for s in traffic.sent[-2 * self.options.window :])
        known = {row["id"] for row in list_alerts(self.engine)}
        fleet.set_faults({llm: {"slow": 1.0}})
        windows = [self.window(traffic, 0.5) for _ in range(4)]
        fleet.set_faults({})
        raised = [
            f"{r['name']} {r['subject'] or ''}".strip()
            for r in list_alerts(self.engine)
            if r["id"] not in known
        ]
        after = Counter(s.llm for s in traffic.sent[-2 * self.options.window :])
        return {
            "llm": llm,
            "share before": before[llm] / before.total(),
            "share at the end": after[llm] / after.total(),
            "alerts": raised,
            "windows": windows,
        }

    def liars(self, traffic: Traffic) -> dict[str, Any]:
        traffic.liars = {f"user-{i}" for i in range(LIARS)}
        say(f"(e) {LIARS} of {USERS} users lie: {', '.join(sorted(traffic.liars))}")
        known = {row["id"] for row in list_alerts(self.engine)}
        found = self.until_alert(traffic, "feedback-poisoned", strange=0.5)
        found["more windows"] = []
        while True:
            found["more windows"].append(self.window(traffic, 0.5))
            held = list_states(self.engine)[0]["statistics"]["held_voters"]
            if len(held) >= LIARS or len(found["more windows"]) >= MORE:
                break
        alerts = [r for r in list_alerts(self.engine) if r["id"] not in known]
        return found | {
            "liars": sorted(traffic.liars),
            "held": held,
            "flagged": sorted(r["subject"] for r in alerts if r["name"] == "feedback-poisoned"),
            "honest held": [v for v in held if v.removeprefix("source:") not in traffic.liars],
        }

    def restart(self) -> None:
        """Kill every process of the stack at once; its watcher brings them back."""
        say("  every process of the stack is killed")
        family: list[psutil.Process] = []
        for child in list(self.stack._children.values()):
            try:
                process = psutil.Process(child.pid)
                family += [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        family.append(psutil.Process(embedded_postgres(self.settings.home).get_pid()))
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.notes["killed"] = len(family)
        time.sleep(5)
        wait_ready(self.settings)
        say("  the service answers again")


def quality_of(sent: Sequence[Sent]) -> float:
    return round(float(np.mean([s.quality for s in sent])), 4)


def lost_votes(engine: Engine, accepted: set[tuple[str, str]]) -> dict[str, int]:
    """Votes that were accepted, and how many of them the log has, and how often."""
    pairs = select(feedback.c.decision_id, feedback.c.source, func.count()).group_by(
        feedback.c.decision_id, feedback.c.source
    )
    with engine.connect() as connection:
        log = {(str(d), s): int(n) for d, s, n in connection.execute(pairs)}
    return {
        "accepted": len(accepted),
        "in the log": sum(pair in log for pair in accepted),
        "twice": sum(n > 1 for n in log.values()),
    }


def prepare(options: argparse.Namespace, whole: EvaluationSet) -> Path:
    """The evaluation set without the subject."""
    folder: Path = options.out / "data"
    shutil.rmtree(folder, ignore_errors=True)
    write_evaluation_set(
        whole.where((whole.queries["source"] != options.subject).to_numpy()), folder
    )
    return folder


def configure(options: argparse.Namespace, data: Path, catalog: Path) -> None:
    """The settings, as a user would make them."""
    rules = options.out / "alerts.yaml"
    rules.write_text("feedback-poisoned: {mode: propose}\n")
    told = {
        "HOME": options.home,
        "DATA": data,
        "CATALOG": catalog,
        "ALERTS": rules,
        "DRIFT_WINDOW": options.window,
        "DRIFT_REFERENCE": options.reference,
        "SHADOW": 0.5,
        "STORE_QUERIES": "full",
        **{
            f"{name}PORT": free_loopback_port()
            for name in ("", "MLFLOW_", "PREFECT_", "EVIDENTLY_")
        },
    }
    os.environ |= {f"MIXLLM_{name}": str(value) for name, value in told.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("drift-story"))
    parser.add_argument("--home", type=Path, help="Of the stack; in --out by default.")
    parser.add_argument("--parts", default="abcde")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--subject", default="law")
    parser.add_argument("--quiet", type=int, default=20, help="Windows of (a).")
    parser.add_argument("--window", type=int, default=300)
    parser.add_argument("--reference", type=int, default=600)
    parser.add_argument("--speed", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="Leave the stack up at the end.")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.home = (options.home or options.out / "home").resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    whole = read_evaluation_set(options.data)
    answers = ChangingAnswers(RecordedAnswers(whole))
    fleet = Fleet(whole.catalog, answers, speed=options.speed)
    with FleetThread(fleet) as server:
        catalog = options.out / "upstreams.yaml"
        catalog.write_text(with_upstreams(whole.catalog, server.address).dump_yaml())
        configure(options, prepare(options, whole), catalog)
        story = Story(options, whole)
        begun = time.monotonic()
        try:
            story.stack.start(local_parts)
            os.environ |= {
                k: v
                for k, v in story.stack.parts[-1].environment.items()
                if k.startswith("MIXLLM_")
            }
            story.settings = read_settings()
            story.registry = Registry.of(story.settings)
            story.watcher.start()
            tell(story, answers, fleet)
        finally:
            story.notes["minutes"] = round((time.monotonic() - begun) / 60, 1)
            write(story)
            if options.keep:
                say(f"left up: {story.settings.service_url}; Ctrl-C stops it")
                threading.Event().wait()
            story.stop.set()
            story.stack.stop()


def tell(story: Story, answers: ChangingAnswers, fleet: Fleet) -> None:
    if story.registry.alias(CHAMPION) is None:
        say("training the first release")
        command = [sys.executable, "-m", "mixllm", "train", "--promote", "--data"]
        subprocess.run([*command, os.environ["MIXLLM_DATA"]], check=True, stdout=subprocess.DEVNULL)
    wait_ready(story.settings)
    traffic = Traffic(story.settings, answers, story.options.seed)
    story.notes["champion"] = story.champion()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "a": lambda: story.quiet(traffic),
        "b": lambda: story.worse(traffic),
        "c": lambda: story.strangers(traffic),
        "d": lambda: story.slow(traffic, fleet),
        "e": lambda: story.liars(traffic),
    }
    if "a" not in story.options.parts:
        story.window(traffic)
    for part in story.options.parts:
        story.notes[part] = parts[part]()
        write(story)
    time.sleep(3)
    story.notes["votes"] = lost_votes(story.engine, traffic.accepted)
    story.notes["queries"] = len(traffic.sent)


def write(story: Story) -> None:
    """What happened, and every report."""
    out = story.options.out
    (out / "story.json").write_text(json.dumps(story.notes, indent=1, default=str) + "\n")
    reports = story.settings.home / "drift"
    if reports.is_dir():
        shutil.copytree(reports, out / "reports", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
