"""Requests that nobody would write, to every endpoint of the service; none may make it fail.

    python -m benchmarks.fuzz [--home DIR | --url URL --key KEY] [--requests 2000] [--out FILE]

schemathesis makes requests as the OpenAPI description wants them and as it does not; hypothesis makes
JSON of any form, and bytes. Each comes with a good key, a wrong one and none. With --home a service
with a simulated fleet is started; with --url one that runs is asked. A failure is: no response, status
500, a status or a body that the description does not know, a body without its key that gets further
than the key, or a traceback in the service's log.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks

from benchmarks.load import stack

SECONDS: Final = 60.0
CHECKS: Final = (
    checks.not_a_server_error,
    checks.content_type_conformance,
    checks.status_code_conformance,
    checks.response_schema_conformance,
)
# What an endpoint without LLMs or a database says by design.
EXPLAINED: Final = {502, 503, 504}
ANY_JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, -(10**30), 2**63, 1e308, 5e-324, "\ud800", "\x00", "NaN"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
HEAD: Final = [b"[" * 20_000, b'{"query": ' * 5_000, b"\xff\xfe", b"\xef\xbb\xbf{}", b"1e999"]


@dataclass
class Tally:
    """What came back: by endpoint, and by kind of request and status."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    requests: int = 0
    slowest: float = 0.0

    def note(self, operation: str, kind: str, status: int, seconds: float) -> None:
        self.requests += 1
        self.slowest = max(self.slowest, seconds)
        self.statuses.setdefault(operation, Counter())[f"{kind} {status}"] += 1

    def fail(self, operation: str, kind: str, what: str) -> None:
        self.failures.append(f"{operation}, {kind}: {what[:500]}")


def fuzz(url: str, key: str | None, requests: int, start: int) -> Tally:
    """Send about so many requests to a service. key: a good one, None where none is needed."""
    tally = Tally()
    described = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    operations: list[Any] = [found.ok() for found in described.get_all_operations()]  # type: ignore[union-attr]
    keys: dict[str, dict[str, str]] = {"key": {"authorization": f"Bearer {key}"} if key else {}}
    if key:
        keys |= {"no key": {}, "wrong key": {"x-api-key": "wrong"}}
    # Most of them come past the key: what is behind it has more ways to fail.
    share = {"key": 0.8, "no key": 0.1, "wrong key": 0.1} if key else {"key": 1.0}
    for operation in operations:
        label = f"{operation.method.upper()} {operation.path}"
        for who, headers in keys.items():
            each = max(1, round(requests * share[who] / len(operations) / 3))
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                kind = f"{who}, {'as' if mode is GenerationMode.POSITIVE else 'not as'} described"
                strategy = operation.as_strategy(generation_mode=mode)
                send = case_sender(tally, label, kind, headers)
                examples(send, strategy, each, start)
            send = body_sender(tally, url, operation, label, f"{who}, any body", headers)
            examples(send, bodies(), each, start)
    return tally


def examples(send: Callable[[Any], None], strategy: Any, count: int, start: int) -> None:
    """Send so many examples of a strategy."""

    @seed(start)
    @given(one=strategy)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(one: Any) -> None:
        send(one)

    try:
        run()
    except Exception as error:  # nothing of the described form can be wrong, say
        print(f"no examples: {type(error).__name__}: {str(error)[:120]}")


def case_sender(
    tally: Tally, label: str, kind: str, headers: dict[str, str]
) -> Callable[[Any], None]:
    def send(case: Any) -> None:
        for name in ("authorization", "x-api-key"):
            case.headers.pop(name, None)
        begun = time.monotonic()
        try:
            response = case.call(headers=headers, timeout=SECONDS)
        except (OSError, ValueError) as error:
            if "Invalid" not in str(error):  # a header that no client can send
                tally.fail(label, kind, f"no response: {error!r}")
            return
        tally.note(label, kind, response.status_code, time.monotonic() - begun)
        unkeyed = not kind.startswith("key")
        if unkeyed and response.status_code not in (401, 404, 405, 413, 431):
            tally.fail(label, kind, f"{response.status_code} without a good key")
        if response.status_code in EXPLAINED:
            return
        try:
            case.validate_response(response, checks=list(CHECKS))
        except (Exception, BaseExceptionGroup) as error:  # schemathesis groups what it finds
            tally.fail(label, kind, f"{error} {getattr(error, 'exceptions', '')}")

    return send


def body_sender(
    tally: Tally, url: str, operation: Any, label: str, kind: str, headers: dict[str, str]
) -> Callable[[Any], None]:
    client = httpx.Client(base_url=url, timeout=SECONDS)
    path = operation.path.replace("{decision_id}", "0" * 32)

    def send(body: bytes) -> None:
        begun = time.monotonic()
        sent = {**headers, "content-type": "application/json"}
        try:
            response = client.request(operation.method, path, content=body, headers=sent)
        except httpx.HTTPError as error:
            tally.fail(label, kind, f"no response: {error!r} to {body[:80]!r}")
            return
        tally.note(label, kind, response.status_code, time.monotonic() - begun)
        if not kind.startswith("key") and response.status_code != 401:
            tally.fail(label, kind, f"{response.status_code} without a good key")
        if response.status_code == 500:
            tally.fail(label, kind, f"500 to {body[:200]!r}")
        if response.status_code >= 400 and "error" not in response.json():
            tally.fail(label, kind, f"an error in another form: {response.text}")

    return send


def bodies() -> Any:
    """JSON of any form, also where the description has a field of another, and bytes."""
    names = (
        "query", "messages", "model", "mixllm", "stream", "tools", "decision_id", "satisfied",
        "quality", "seconds", "feedback", "candidates", "exploration", "beta", "session",
        "datasource_item", "results", "status", "max_tokens", "n", "content",
    )  # fmt: skip
    objects = st.dictionaries(st.sampled_from(names), ANY_JSON, max_size=6)
    chats = st.fixed_dictionaries(
        {"model": st.just("mixllm"), "messages": st.lists(st.dictionaries(
            st.sampled_from(("role", "content", "tool_calls")), ANY_JSON), max_size=3)},
        optional=dict.fromkeys(("mixllm", "tools", "stream", "stream_options", "n"), ANY_JSON),
    )  # fmt: skip
    written = (ANY_JSON | objects | chats).map(lambda value: json.dumps(value).encode())
    return written | st.binary(max_size=200) | st.sampled_from(HEAD)


def report(tally: Tally) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "slowest_seconds": round(tally.slowest, 3),
        "statuses": {name: dict(sorted(seen.items())) for name, seen in tally.statuses.items()},
        "failures": tally.failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--url", help="A service that runs, in place of one from --home.")
    parser.add_argument("--key", help="A key of it with all scopes.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.url:
        tally = fuzz(arguments.url, arguments.key, arguments.requests, arguments.seed)
    else:
        home = arguments.home.resolve()
        log = home / "logs" / "service.log"
        before = log.stat().st_size if log.is_file() else 0
        key = secrets.token_urlsafe(16)
        with stack(home, {"MIXLLM_API_KEY": key}) as (running, _):
            tally = fuzz(running.service_url, key, arguments.requests, arguments.seed)
            alive = httpx.get(f"{running.service_url}/livez", timeout=5).is_success
        if not alive:
            tally.failures.append("the service does not live any more")
        written = log.read_bytes()[before:]
        if count := written.count(b"Traceback (most recent call last)"):
            tally.failures.append(f"{count} tracebacks in {log}")
    found = report(tally)
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if tally.failures:
        raise SystemExit(f"{len(tally.failures)} failures")


if __name__ == "__main__":
    main()
