"""Who may ask: API keys from Postgres, their rates and their budgets.

The keys are held in memory and read again every few seconds; a copy on disk (hashes only) serves a
service that starts while Postgres is away. As long as nobody knows whether a key is needed, one is.
"""

from __future__ import annotations

import hmac
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from sqlalchemy import Engine
from sqlalchemy.exc import ProgrammingError

from infra.settings import Settings
from models.decision.exploration import Exploration
from monitoring.store.answers import charged, month_start, spent_this_month
from monitoring.store.keys import SCOPES, Access, ApiKey, hash_key, read_access
from serving.access.budgets import Budgets
from serving.access.key_copy import FILE, KeyCopy, Unreadable, read_copy, write_copy
from serving.polling import Poller
from serving.refusals import Refused

log = logging.getLogger("mixllm.keys")

ROOT: Final = "root"
RATE: Final = "rate_limit_exceeded"
# A service waits so long at its start for Postgres to say who may ask; then the copy counts.
START_SECONDS: Final = 8.0
HOW_TO_OPEN: Final = "create one: mixllm keys create NAME; or let everybody in: mixllm keys open"


class KeyRing:
    """The keys that are valid now. Safe to use from several threads."""

    def __init__(self, settings: Settings, engine: Callable[[], Engine]) -> None:
        self.settings = settings
        self.budgets = Budgets()
        self._engine = engine
        self._path = settings.home / FILE
        # None until Postgres or the copy says who may ask; then ``required`` is never None.
        self._access: Access | None = None
        self._keys: dict[str, ApiKey] = {}
        self._copy: KeyCopy | None = None
        self._copy_doubt = f"there is no copy ({FILE})"
        self._unreadable = False
        self._database_doubt = "Postgres has not answered yet"
        self._lock = threading.Lock()
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._looked = threading.Event()
        self._poller = Poller("keys", self._look)
        self._root = None
        if settings.api_key is not None:
            digest = hash_key(settings.api_key.get_secret_value())
            self._root = ApiKey(ROOT, ROOT, digest, SCOPES)

    def start(self, unwritten: Iterable[Mapping[str, Any]] = ()) -> None:
        """Read the keys; returns when Postgres has answered, or after some seconds without it.

        unwritten: answers that may not be in Postgres yet.
        """
        self._read_copy(unwritten)
        self._poller.start()
        self._looked.wait(START_SECONDS)
        with self._lock:
            if self._access is None and self._copy is not None:
                log.warning("keys: Postgres is away; the keys are those of %s", self._path)
                self._take(Access(self._copy.keys, self._copy.keys_required, self._copy.unusable))

    def stop(self) -> None:
        self._poller.stop()
        self._write_copy()

    def admit(self, headers: Mapping[str, str], scope: str) -> str | None:
        """The id of the key that a request brings; None where none is needed. Raises Refused."""
        with self._lock:
            access, keys, root = self._access, self._keys, self._root
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip() if kind.lower() == "bearer" else "")
        digest = hash_key(given) if given else ""
        if root is not None and hmac.compare_digest(digest, root.sha256):
            key = root
        elif access is None:
            raise Refused(503, self._doubt(), max(1, math.ceil(self.settings.poll_seconds)))
        elif root is None and not access.required:
            return None
        elif digest in access.unusable:
            raise Refused(403, f"{access.unusable[digest]}; revoke it and create another")
        # The table is searched by hash, so that its time says nothing of a key.
        elif digest in keys:
            key = keys[digest]
        elif root is None and not keys and not access.unusable:
            raise Refused(401, f"an API key is needed, and none is in use; {HOW_TO_OPEN}")
        else:
            raise Refused(401, "the API key is missing or wrong")
        if not key.allows(scope):
            raise Refused(403, f"key {key.name!r} lacks the scope {scope!r}")
        self._check_rate(key)
        return key.id

    def _doubt(self) -> str:
        """Why nobody is let in."""
        return (
            f"the API keys cannot be read: {self._database_doubt}, and {self._copy_doubt}; "
            "the service's log says more"
        )

    def _check_rate(self, key: ApiKey) -> None:
        if key.requests_per_minute is None:
            return
        rate = RateLimitItemPerMinute(key.requests_per_minute)
        if not self._limiter.hit(rate, key.id):
            free = self._limiter.get_window_stats(rate, key.id).reset_time
            message = f"key {key.name!r} may send {key.requests_per_minute} requests a minute"
            raise Refused(429, message, max(1, math.ceil(free - time.time())), RATE)

    def check_budget(self, identity: str | None) -> None:
        """Raises Refused where a key's budget is used up."""
        if (key := self._by_id(identity)) is not None:
            self.budgets.check(key)

    def hold(self, identity: str | None, holder: str, cost: Callable[[], float]) -> None:
        """Set a request's dearest cost aside, where its key has a budget. Raises Refused."""
        key = self._by_id(identity)
        if key is not None and key.monthly_budget_usd is not None:
            self.budgets.hold(key, holder, cost())

    def settle(self, identity: str | None, holder: str, usd: float | None) -> None:
        """Give back what a request held, and count its cost."""
        self.budgets.settle(identity, holder, usd)

    def owns(self, identity: str | None, decided_by: str | None) -> bool:
        """Whether a caller may see and judge a decision that was made for a key, or for none.

        A key has its own decisions, ``admin`` all. Where no key is needed, callers share the
        decisions that were made without one, and see no key's.
        """
        if decided_by == identity:
            return True
        key = self._by_id(identity)
        return key is not None and key.allows("admin")

    def exploration(self, identity: str | None) -> Exploration | None:
        """How choices for a key are drawn, where that was said."""
        key = self._by_id(identity)
        return key.exploration if key is not None else None

    def _by_id(self, identity: str | None) -> ApiKey | None:
        if identity is None:
            return None
        if identity == ROOT:
            return self._root
        with self._lock:
            return next((key for key in self._keys.values() if key.id == identity), None)

    def _look(self) -> float:
        try:
            self._refresh()
        except Exception as error:  # noqa: BLE001 - whatever fails, the keys known so far stay valid
            wrong = isinstance(error, ProgrammingError)
            self._database_doubt = (
                "Postgres does not show them" if wrong else "Postgres does not answer"
            )
            log.warning("keys: %s", str(error).partition("\n")[0])
        self._looked.set()
        self._write_copy()
        return self.settings.poll_seconds

    def _refresh(self) -> None:
        engine = self._engine()
        access = read_access(engine)
        with self._lock:
            before = self._access
            if access.required is None:
                # This database never heard of keys; what was required elsewhere stays so.
                if self._unreadable:
                    self._read_copy()
                if self._unreadable:
                    self._database_doubt = "Postgres has no record of them"
                    return
                needed = self._copy is not None and self._copy.keys_required
                needed = needed or (before is not None and bool(before.required))
                access = replace(access, required=needed)
            self._take(access)
        if before is None or before.unusable != access.unusable:
            for why in access.unusable.values():
                log.error("keys: %s; requests with it are refused", why)
        since = month_start()
        self.budgets.learn(since, spent_this_month(engine, since))

    def _take(self, access: Access) -> None:
        self._access, self._keys = access, {key.sha256: key for key in access.keys}

    def _read_copy(self, unwritten: Iterable[Mapping[str, Any]] = ()) -> None:
        try:
            copy = read_copy(self._path)
        except Unreadable as error:
            log.error("keys: %s is unreadable: %s", self._path, error)
            self._copy_doubt, self._unreadable = f"the copy ({FILE}) is unreadable", True
            return
        self._unreadable = False
        if copy is None:
            return
        self._copy = copy
        if copy.month is None:
            return
        spent = dict(copy.spent) if copy.month == month_start() else {}
        for row in unwritten:
            finished = datetime.fromisoformat(row["finished_at"])
            if row["key_id"] and finished > max(copy.written_at, copy.month):
                spent[row["key_id"]] = spent.get(row["key_id"], 0.0) + charged(row)
        self.budgets.learn(month_start(), spent)

    def _write_copy(self) -> None:
        """Keep what is known for a start without Postgres; a disk that is full stops nobody."""
        with self._lock:
            access = self._access
        if access is None:
            return
        known = self.budgets.snapshot()
        copy = KeyCopy(
            keys_required=bool(access.required),
            keys=access.keys,
            unusable=dict(access.unusable),
            month=known[0] if known else None,
            spent=known[1] if known else {},
        )
        if copy.same(self._copy) and self._path.is_file():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_copy(self._path, copy)
        except OSError as error:
            log.error("keys: %s cannot be written: %s", self._path, error.strerror)
            return
        self._copy, self._unreadable = copy, False
