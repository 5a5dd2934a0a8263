"""What a service process holds: the champion, the router, the gateway, the keys, the journals."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from fastapi import HTTPException
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from infra.database import STATEMENT_SECONDS
from infra.settings import Settings
from models.decision.waiting import WaitingTracker
from models.release.manifest import Manifest
from monitoring.drift.refused_rows import raise_alert
from monitoring.store.answers import charged, read_answer
from monitoring.store.decisions import read_decision
from monitoring.store.journal import DatabaseAway, Journal
from monitoring.store.journals import JOURNALS
from monitoring.store.releases import release_row
from monitoring.store.rows import check_table
from monitoring.store.schema import open_store
from serving import metrics
from serving.access.keys import KeyRing
from serving.gateway.call_costs import dearest
from serving.gateway.completion import Job
from serving.gateway.echo import Echoes
from serving.gateway.gateway import Gateway
from serving.lookups import Lookups
from serving.polling import Poller
from serving.recent import MAX_ROWS, Recent
from serving.routing.challenger import Challenger
from serving.routing.champion import Champion
from serving.routing.policy_follower import PolicyFollower
from serving.routing.router import Router

log = logging.getLogger("mixllm.answers")

GAUGE_SECONDS: Final = 1.0


class ServiceState:
    """Built once per process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.champion = Champion(settings, self._note_release)
        self.journals = {name: self._journal(name) for name in JOURNALS}
        self.releases, self.decisions = self.journals["releases"], self.journals["decisions"]
        self.answers, self.feedback = self.journals["answers"], self.journals["feedback"]
        self.tracker = WaitingTracker()
        self.policy = PolicyFollower(settings, self.champion, lambda: self.engine)
        self.keys = KeyRing(settings, lambda: self.engine)
        self.challenger = Challenger(settings, self.tracker, self._keep_shadow, self._note_release)
        self.champion.followers.append(self.challenger)
        self.router = Router(
            settings,
            self.champion,
            self.policy,
            self.keys,
            self.tracker,
            self.challenger,
            self._keep_decision,
        )
        self.gateway = Gateway(self.tracker, self._finished, self._hold)
        # The encoder releases the interpreter's lock: a thread a core, and no more.
        self.lookups = Lookups()
        self.pool = ThreadPoolExecutor(os.cpu_count() or 2, thread_name_prefix="route")
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._recent = Recent()
        self._gauges = Poller("gauges", self._show_queues)

    def start(self) -> None:
        # What a killed process left can be voted on before Postgres has it.
        self._recall(self.decisions, "id", "")
        self.keys.start(self._recall(self.answers, "decision_id", "answer "))
        for journal in self.journals.values():
            journal.start()
        self.challenger.start()
        self.champion.start()
        self.policy.start()
        self._gauges.start()

    def _recall(self, journal: Journal, column: str, prefix: str) -> list[dict[str, Any]]:
        """Remember rows that wait in files. What is none is looked at when it is inserted."""
        rows = []
        try:
            for row in journal.newest(MAX_ROWS):
                if isinstance(identity := row.get(column), str):
                    self._recent.put(prefix + identity, row)
                    rows.append(row)
        except OSError as error:
            log.error("%s cannot be read: %s", journal.folder, error)
        return rows

    def stop(self) -> None:
        self._gauges.stop()
        self.champion.stop()
        self.challenger.stop()
        self.policy.stop()
        self.keys.stop()
        self.lookups.stop()
        self.pool.shutdown(wait=True)
        for journal in self.journals.values():
            journal.close()

    @property
    def engine(self) -> Engine:
        """The database's engine, migrated; made when first needed, again if it failed.

        Raises SQLAlchemyError, after some seconds at most.
        """
        if (engine := self._engine) is not None:
            return engine
        if not self._engine_lock.acquire(timeout=STATEMENT_SECONDS):
            raise SQLAlchemyError("Postgres does not answer: it is being connected to")
        try:
            if self._engine is None:
                self._engine = open_store(self.settings, impatient=True)
            return self._engine
        except SQLAlchemyError:
            raise
        except Exception as error:  # the embedded server did not start, say
            raise SQLAlchemyError(str(error)) from error
        finally:
            self._engine_lock.release()

    @property
    def database_error(self) -> str | None:
        errors = (journal.last_error for journal in self.journals.values())
        return next((error for error in errors if error is not None), None)

    @property
    def disk_error(self) -> str | None:
        errors = (journal.disk_error for journal in self.journals.values())
        return next((error for error in errors if error is not None), None)

    def _journal(self, name: str) -> Journal:
        kind = JOURNALS[name]

        def engine() -> Engine:
            try:
                return self.engine
            except Exception as error:  # the embedded server did not start, say: rows wait
                raise DatabaseAway(str(error).partition("\n")[0]) from error

        def insert(rows: Sequence[dict[str, Any]]) -> None:
            # Votes go after what they are about: whoever reads a vote finds its decision.
            before = (self.releases, self.decisions, self.answers) if name == "feedback" else ()
            if not all(journal.flush() for journal in before):
                raise DatabaseAway("the decisions that votes are about wait for Postgres")
            kind.insert(engine(), rows)

        return Journal(
            self.settings.home / kind.folder,
            insert,
            self.settings.flush_seconds,
            kind.synced,
            check=lambda: check_table(engine(), kind.table),
            refused=lambda rows: self._rows_refused(name, rows),
        )

    def _rows_refused(self, name: str, rows: int) -> None:
        """Rows have become dead letters: tell people."""
        metrics.rows_refused.labels(name).inc(rows)
        running = self.champion.running
        release = (running.release.digest, running.version) if running else ("", "none")
        try:
            letters = self.journals[name].dead_letters.read()
            raise_alert(self.engine, name, letters, release, self.settings.alerts)
        except Exception as error:  # the log and the metric tell it all the same
            log.error("no alert could be raised: %s", str(error).partition("\n")[0])

    def _note_release(self, manifest: Manifest, version: str) -> None:
        self._keep("releases", release_row(manifest, version))

    def _keep(self, name: str, row: dict[str, Any]) -> None:
        """A full disk is not the caller's outage: what cannot be kept is counted."""
        if not self.journals[name].keep(row):
            metrics.rows_lost.labels(name).inc()

    def _keep_decision(self, row: dict[str, Any]) -> None:
        self._keep("decisions", row)
        self._recent.put(row["id"], row)

    def _keep_shadow(self, row: dict[str, Any]) -> None:
        self._keep("shadows", row)

    def keep_answer(self, row: dict[str, Any]) -> None:
        """Keep what became of a decision; the first answer to it stays."""
        self.keys.settle(row["key_id"], row["decision_id"], charged(row))
        self._keep("answers", row)
        self._recent.put(f"answer {row['decision_id']}", row)

    def _hold(self, job: Job, llm: str) -> None:
        """Set aside what an LLM's answer may cost. Raises Refused."""
        self.keys.hold(job.key_id, job.decision_id, lambda: job.lost + dearest(job, llm))

    def _finished(self, job: Job, status: str, error: str | None) -> None:
        """A chat completion ended."""
        seconds = time.monotonic() - job.started
        echoes = Echoes(job.body)
        billed = job.billed
        prompt = billed.usage.prompt_tokens if billed else None
        response = billed.usage.response_tokens if billed else None
        row = {
            "decision_id": job.decision_id,
            "finished_at": datetime.now(UTC).isoformat(),
            "llm": job.llm,
            "status": status,
            "error": self._kept(error, echoes),
            "attempts": [
                {**attempt, "error": self._kept(attempt["error"], echoes)}
                for attempt in job.attempts
            ],
            "prompt_tokens": prompt,
            "response_tokens": response,
            "cost_usd": job.cost,
            "lost_usd": job.lost or None,
            "first_token_seconds": job.first_token,
            "seconds": seconds,
            "streamed": job.stream,
            "key_id": job.key_id,
        }
        self.keep_answer(row)
        left_out = ("attempts", "finished_at")
        log.info("answer", extra={k: v for k, v in row.items() if k not in left_out})
        chosen = job.ranking[0]
        metrics.answers.labels(job.llm or chosen, status).inc()
        for attempt in job.attempts:
            if "lost_usd" in attempt:
                metrics.lost_cost.labels(attempt["llm"]).inc(attempt["lost_usd"])
        if job.llm is None:
            return
        metrics.answer_cost.labels(job.llm).inc(billed.cost if billed else 0.0)
        metrics.answer_seconds.labels(job.llm).observe(seconds)
        if job.llm != chosen:
            metrics.replaced.labels(chosen, job.llm).inc()
        if status == "answered" and job.llm in job.response_tokens:
            metrics.predicted_tokens.labels(job.llm).inc(job.response_tokens[job.llm])
            metrics.observed_tokens.labels(job.llm).inc(response or 0)

    def _kept(self, message: str | None, echoes: Echoes) -> str | None:
        """An error message as logs and tables keep it."""
        if self.settings.store_queries == "full":
            return message
        return echoes.mask(message)

    def remembers(self, identity: str) -> bool:
        """Whether a decision is known without Postgres."""
        return self._recent.get(identity.lower()) is not None

    def owned(
        self, identity: UUID, key_id: str | None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The rows of a decision that belongs to the caller, and of its answer.

        Raises HTTPException, the same for a decision of another and for none: ids tell nothing.
        """
        row, answer = self.rows_of(identity)
        if row is None or not self.keys.owns(key_id, row.get("key_id")):
            raise HTTPException(404, f"no decision {identity} of yours")
        return row, answer

    def decision(self, identity: UUID, key_id: str | None) -> dict[str, Any]:
        """A decision and its answer as their owner may see them. Raises HTTPException."""
        row, answer = self.owned(identity, key_id)
        hidden = ("embedding", "form", "key_id")
        return {**{k: v for k, v in row.items() if k not in hidden}, "answer": answer}

    def rows_of(self, identity: UUID) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """A decision's row and its answer's, from memory while recent, else from Postgres, else from
        the files of this machine's other processes."""
        name = str(identity)
        if (row := self._recent.get(name)) is not None:
            return row, self._recent.get(f"answer {name}")
        if (row := read_decision(self.engine, identity)) is not None:
            return row, read_answer(self.engine, identity)
        row = self.decisions.find("id", name)
        return row, self.answers.find("decision_id", name) if row is not None else None

    def _show_queues(self) -> float:
        """Keep the gauges up to date; not on the request's path, where each costs its share."""
        for name, journal in self.journals.items():
            metrics.unwritten.labels(name).set(journal.waiting)
            metrics.dead_letters.labels(name).set(journal.dead_letters.count())
        now, endpoints = time.monotonic(), self.gateway.endpoints
        waiting = self.tracker.delays(list(endpoints), now).waiting.tolist()
        for (name, endpoint), seconds in zip(endpoints.items(), waiting, strict=True):
            state = endpoint.breaker.state(now)
            metrics.breaker.labels(name).set({"closed": 0.0, "half-open": 0.5}.get(state, 1.0))
            metrics.waiting_seconds.labels(name).set(seconds)
            metrics.in_flight.labels(name).set(self.tracker.in_flight(name))
        return GAUGE_SECONDS
