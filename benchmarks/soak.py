"""Is memory flat? The service under a mixed load for minutes: what clients do well, badly and rudely.

    python -m benchmarks.soak [--home DIR] [--minutes 30] [--out FILE] [--plot FILE]

Chat completions plain and streamed, pinned and routed, with injected faults; streams that the client
leaves; decisions without an answer, observations and votes on them; conversations; long prompts,
images, bodies that are refused; several keys, wrong ones too. Every few seconds the resident memory of
each of the service's processes is sampled. The caches (docs/gateway.md, Memory) fill in the first half;
over the second half no process may grow by more than SLOPE, fitted by least squares.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil

from benchmarks.faults import LIMITS, MIXED, QUESTIONS
from benchmarks.load import stack
from infra.database import connect, database_address
from infra.settings import Settings
from monitoring.store.keys import create_key, revoke_key

# MiB a minute that a process may grow by in the second half.
SLOPE: Final = 0.25
SAMPLE_SECONDS: Final = 5.0
CLIENTS: Final = 4
KEYS: Final = 5
ROOT_KEY: Final = "soak-root"
PIXEL: Final = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
# Decisions that the clients still remember, to vote on.
REMEMBERED: Final = 200
# Statuses that a request may end with: an injected fault of every LLM asked, or what was asked wrong.
EXPECTED: Final = {200, 202, 400, 401, 404, 422, 429, 502, 504}
Step = Callable[[], Awaitable[int]]


class Visitors:
    """What the clients do, one step at a time. Each step returns the status it got."""

    def __init__(self, http: httpx.AsyncClient, keys: Sequence[str], seed: int = 0) -> None:
        self.http, self.keys = http, keys
        self.random = random.Random(seed)
        self.decisions: list[tuple[str, str]] = []
        self.seen: Counter[str] = Counter()
        steps: list[tuple[Step, int]] = [
            (self.plain, 30), (self.streamed, 30), (self.left, 4), (self.pinned, 5),
            (self.route, 12), (self.conversation, 6), (self.long, 3), (self.image, 2),
            (self.vote, 14), (self.votes, 2), (self.read, 4), (self.refused, 3),
            (self.stranger, 3), (self.look, 2),
        ]  # fmt: skip
        self.steps = [step for step, _ in steps]
        self.weights = [weight for _, weight in steps]

    async def step(self) -> None:
        """One of the steps, drawn by its weight."""
        chosen = self.random.choices(self.steps, self.weights)[0]
        try:
            status = await chosen()
        except httpx.HTTPError as error:
            self.seen[f"{chosen.__name__} {type(error).__name__}"] += 1
            return
        self.seen[f"{chosen.__name__} {status}"] += 1

    def _key(self) -> str:
        return self.random.choice(self.keys)

    def _question(self) -> str:
        return f"{self.random.choice(QUESTIONS)} ({self.random.randrange(10**9)})"

    async def _post(self, path: str, body: Any, key: str | None = None) -> httpx.Response:
        key = key or self._key()
        response = await self.http.post(path, json=body, headers={"x-api-key": key})
        identity = response.headers.get("x-mixllm-decision-id")
        if response.status_code == 200 and identity:
            self._remember(identity, key)
        return response

    def _remember(self, identity: str, key: str) -> None:
        self.decisions.append((identity, key))
        del self.decisions[:-REMEMBERED]

    async def _chat(self, content: Any, **more: Any) -> int:
        messages = [{"role": "user", "content": content}]
        body = {"model": "mixllm", "messages": messages, **more}
        response = await self._post("/v1/chat/completions", body)
        status = response.status_code
        # A pinned LLM's own error 500 is passed on: a bad gateway, here.
        if status == 500 and response.json()["error"]["code"] != "internal_error":
            status = 502
        return status

    async def plain(self) -> int:
        return await self._chat(self._question())

    async def streamed(self) -> int:
        return await self._chat(self._question(), stream=True)

    async def pinned(self) -> int:
        return await self._chat(self._question(), model="sim-nano")

    async def long(self) -> int:
        return await self._chat("word " * self.random.randrange(100, 20_000))

    async def image(self) -> int:
        return await self._chat([{"type": "text", "text": self._question()}, PIXEL])

    async def conversation(self) -> int:
        options = {"session": f"s-{self.random.randrange(10**9)}", "switching_cost": 0.1}
        return await self._chat(self._question(), mixllm=options)

    async def left(self) -> int:
        """A stream that the client leaves after its first bytes."""
        body = {
            "model": "mixllm",
            "messages": [{"role": "user", "content": self._question()}],
            "stream": True,
        }
        headers = {"x-api-key": self._key()}
        async with self.http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as response:
            async for _ in response.aiter_bytes():
                break
            return response.status_code

    async def route(self) -> int:
        """A decision alone; every second one is told of."""
        key = self._key()
        response = await self._post("/v1/route", {"query": self._question()}, key)
        if response.status_code != 200:
            return response.status_code
        identity = response.json()["decision_id"]
        self._remember(identity, key)
        if self.random.random() < 0.5:
            told = {"decision_id": identity, "seconds": 1.0, "prompt_tokens": 10}
            return (await self._post("/v1/observations", told, key)).status_code
        return response.status_code

    def _judgement(self, identity: str) -> dict[str, Any]:
        source = f"user-{self.random.randrange(10**6)}"
        if self.random.random() < 0.5:
            return {"decision_id": identity, "satisfied": True, "source": source}
        return {"decision_id": identity, "quality": 0.5, "source": source, "comment": "as good"}

    async def vote(self) -> int:
        if not self.decisions:
            return 200
        identity, key = self.random.choice(self.decisions)
        return (await self._post("/v1/feedback", self._judgement(identity), key)).status_code

    async def votes(self) -> int:
        key = self._key()
        mine = [identity for identity, owner in self.decisions if owner == key][:20]
        if not mine:
            return 200
        batch = {"feedback": [self._judgement(identity) for identity in mine]}
        return (await self._post("/v1/feedback/batch", batch, key)).status_code

    async def read(self) -> int:
        if not self.decisions:
            return 200
        identity, key = self.random.choice(self.decisions)
        response = await self.http.get(f"/v1/decisions/{identity}", headers={"x-api-key": key})
        return response.status_code

    async def refused(self) -> int:
        return await self._chat(self._question(), stream="yes")

    async def stranger(self) -> int:
        key = f"wrong-{self.random.randrange(10**9)}"
        return (await self._post("/v1/route", {"query": "x"}, key)).status_code

    async def look(self) -> int:
        path = self.random.choice(("/v1/models", "/v1/release", "/metrics", "/v1/nothing"))
        return (await self.http.get(path, headers={"x-api-key": self._key()})).status_code


def family() -> dict[str, psutil.Process]:
    """The service's processes, by what they are."""
    found = {}
    for child in psutil.Process(os.getpid()).children(recursive=True):
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "_bentoml_impl.worker.service" in command:
            found[f"worker {child.pid}"] = child
        elif "serving.service:MixLLM" in command:
            found[f"supervisor {child.pid}"] = child
    return found


async def load(
    settings: Settings, fleet: str, keys: Sequence[str], minutes: float
) -> tuple[dict[str, list[tuple[float, float]]], Counter[str], int]:
    """Memory of each process as (minute, MiB) samples, what was seen, and how many requests."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in family()}
    begun = time.monotonic()
    until = begun + 60 * minutes
    limits = httpx.Limits(max_connections=4 * CLIENTS)
    async with httpx.AsyncClient(base_url=settings.service_url, timeout=60, limits=limits) as http:
        (await http.put(f"{fleet}/fleet/faults", json={"*": MIXED})).raise_for_status()
        visitors = Visitors(http, keys)

        async def one() -> None:
            while time.monotonic() < until:
                await visitors.step()

        async def watch() -> None:
            shown = 0.0
            while time.monotonic() < until:
                now = (time.monotonic() - begun) / 60
                for name, process in family().items():
                    mib = process.memory_info().rss / 2**20
                    samples.setdefault(name, []).append((round(now, 3), round(mib, 2)))
                if now >= shown:
                    shown += 0.5
                    last = {name: rows[-1][1] for name, rows in samples.items()}
                    print(f"{now:5.1f} min, {sum(visitors.seen.values())} requests, {last}")
                await asyncio.sleep(SAMPLE_SECONDS)

        await asyncio.gather(watch(), *(one() for _ in range(CLIENTS)))
    return samples, visitors.seen, sum(visitors.seen.values())


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """MiB a minute over the second half, by least squares."""
    half = np.array(samples[len(samples) // 2 :])
    return float(np.polyfit(half[:, 0], half[:, 1], 1)[0])


def unexpected(seen: Counter[str]) -> dict[str, int]:
    """What no client should have seen."""
    return {
        what: count
        for what, count in seen.items()
        if not (what.split()[1].isdigit() and int(what.split()[1]) in EXPECTED)
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """The memory plot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for name, samples in result["memory_mib"].items():
        minutes, mib = zip(*samples, strict=True)
        axes.plot(minutes, mib, label=f"{name.split()[0]}: {result['slope'][name]:+.2f} MiB/min")
    axes.axvline(result["minutes"] / 2, color="grey", linestyle=":", label="second half")
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, None))
    axes.set_title(f"{result['requests']} requests of mixed load")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def run(home: Path, minutes: float, environment: dict[str, str]) -> dict[str, Any]:
    """Start the service, load it, stop it."""
    environment = {"MIXLLM_API_KEY": ROOT_KEY, **environment}
    with stack(home, environment, ["--speed", "20"], LIMITS) as (settings, fleet):
        engine = connect(database_address(settings.database(), settings.home))
        names = [f"soak-{os.getpid()}-{number}" for number in range(KEYS)]
        keys = [create_key(engine, name, ["route", "feedback"])[1] for name in names]
        time.sleep(settings.poll_seconds + 1)  # until the service knows them
        try:
            samples, seen, requests = asyncio.run(load(settings, fleet, keys, minutes))
        finally:
            for name in names:
                revoke_key(engine, name)
            engine.dispose()
    slopes = {name: slope(rows) for name, rows in samples.items() if len(rows) > 3}
    return {
        "minutes": minutes,
        "requests": requests,
        "limit_mib_per_minute": SLOPE,
        "slope": slopes,
        "seen": dict(sorted(seen.items())),
        "unexpected": unexpected(seen),
        "memory_mib": {name: rows for name, rows in samples.items() if name in slopes},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/plots/soak.png"))
    arguments = parser.parse_args()
    result = run(arguments.home.resolve(), arguments.minutes, {})
    arguments.out.write_text(json.dumps(result) + "\n")
    draw(result, arguments.plot)
    for name, value in result["slope"].items():
        rows = result["memory_mib"][name]
        print(f"{name}: {rows[0][1]:.0f} to {rows[-1][1]:.0f} MiB, {value:+.3f} MiB/min at the end")
    if result["unexpected"]:
        raise SystemExit(f"unexpected: {result['unexpected']}")
    if max(result["slope"].values()) > SLOPE:
        raise SystemExit(f"memory grows by more than {SLOPE} MiB a minute")


if __name__ == "__main__":
    main()
