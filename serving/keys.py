"""Who may ask: API keys from Postgres, their rates and their budgets.

The keys are held in memory and looked for anew every few seconds; a copy on disk (hashes only) lets
a service that starts without Postgres know them still.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from sqlalchemy import Engine

from infra.settings import Settings
from models.exploration import Exploration
from monitoring.answers import month_start, spent_this_month
from monitoring.keys import SCOPES, ApiKey, hash_key, valid_keys

log = logging.getLogger("mixllm.keys")

FILE: Final = "keys.json"
ROOT: Final = "root"


class Refused(Exception):
    """A request is not let in. status: HTTP. retry_after: seconds, where waiting helps."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class KeyRing:
    """The keys that are valid now. Safe to use from several threads."""

    def __init__(self, settings: Settings, engine: Callable[[], Engine]) -> None:
        self.settings = settings
        self._engine = engine
        self._path = settings.home / FILE
        self._keys: dict[str, ApiKey] = {}
        self._spent: dict[str, float] = {}
        self._month: datetime = month_start()
        self._lock = threading.Lock()
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self._root = None
        if settings.api_key is not None:
            digest = hash_key(settings.api_key.get_secret_value())
            self._root = ApiKey(ROOT, ROOT, digest, SCOPES)

    def start(self) -> None:
        if self._path.is_file():
            try:
                self._take([ApiKey.parse(row) for row in json.loads(self._path.read_text())])
            except (ValueError, TypeError) as error:
                log.error("%s is not readable: %s", self._path, error)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def admit(self, headers: Mapping[str, str], scope: str) -> str | None:
        """The id of the key that a request brings; None where none is needed. Raises Refused."""
        with self._lock:
            keys, root = self._keys, self._root
        if not keys and root is None:
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip() if kind.lower() == "bearer" else "")
        digest = hash_key(given)
        # The table is searched by hash, so that its time says nothing of a key.
        key = keys.get(digest)
        if root is not None and hmac.compare_digest(digest, root.sha256):
            key = root
        if key is None:
            raise Refused(401, "the API key is missing or wrong")
        if not key.allows(scope):
            raise Refused(403, f"key {key.name!r} lacks the scope {scope!r}")
        self._check_limits(key)
        return key.id

    def _check_limits(self, key: ApiKey) -> None:
        if key.monthly_budget_usd is not None:
            spent = self.spent(key.id)
            if spent >= key.monthly_budget_usd:
                raise Refused(
                    429,
                    f"key {key.name!r} has spent ${spent:.4f} of its ${key.monthly_budget_usd:g} this "
                    "month",
                )
        if key.requests_per_minute is not None:
            rate = RateLimitItemPerMinute(key.requests_per_minute)
            if not self._limiter.hit(rate, key.id):
                raise Refused(
                    429, f"key {key.name!r} has had its {key.requests_per_minute} a minute", 60
                )

    def allows(self, identity: str | None, scope: str) -> bool:
        """Whether a key that was let in has a scope; everybody has, where no key is needed."""
        key = self._by_id(identity)
        return key is None or key.allows(scope)

    def exploration(self, identity: str | None) -> Exploration | None:
        """How choices for a key are drawn, where that was said."""
        key = self._by_id(identity)
        return Exploration(**key.exploration) if key is not None and key.exploration else None

    def _by_id(self, identity: str | None) -> ApiKey | None:
        if identity is None:
            return None
        if identity == ROOT:
            return self._root
        with self._lock:
            return next((key for key in self._keys.values() if key.id == identity), None)

    def spent(self, identity: str) -> float:
        """USD this month."""
        with self._lock:
            return self._spent.get(identity, 0.0)

    def charge(self, identity: str | None, usd: float | None) -> None:
        """Count an answer's cost at once; Postgres has it later."""
        if identity is None or not usd:
            return
        with self._lock:
            self._turn_month()
            self._spent[identity] = self._spent.get(identity, 0.0) + usd

    def _turn_month(self) -> None:
        if month_start() != self._month:
            self._month, self._spent = month_start(), {}

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._refresh()
            except Exception as error:  # Postgres is away: the keys known so far stay valid
                log.warning("keys: %s", str(error).partition("\n")[0])
            self._stop.wait(self.settings.poll_seconds)

    def _refresh(self) -> None:
        engine = self._engine()
        keys, spent = valid_keys(engine), spent_this_month(engine)
        with self._lock:
            changed = {key.sha256: key for key in keys} != self._keys
            self._turn_month()
            # What this process counted may not be written yet.
            for identity, usd in spent.items():
                self._spent[identity] = max(usd, self._spent.get(identity, 0.0))
        if changed:
            self._take(keys)
            write_private(self._path, [key.dump() for key in keys])

    def _take(self, keys: list[ApiKey]) -> None:
        with self._lock:
            self._keys = {key.sha256: key for key in keys}


def write_private(path: Any, content: Any) -> None:
    """Write JSON that only this user may read, whole or not at all."""
    part = path.with_suffix(".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        json.dump(content, handle)
    part.replace(path)
