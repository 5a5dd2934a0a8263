"""``/v1/route`` under load: latency by part, throughput, memory, time to readiness.

    python -m benchmarks.serving [--home DIR] [--out FILE]

Starts the service on the champion of a home (the demo's by default), on loopback, with the clients
on the same machine. Each client sends one request after another on a kept connection. The queries
are of 64 tokens. "rest" is what the client waits beyond the parts: HTTP, JSON, storing, queueing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import uvloop

from infra.settings import Settings, read_settings
from infra.stack.parts import service_alone
from infra.stack.stack import Stack, wait_ready
from models.encoder.onnx import OnnxEncoder

CLIENTS: Final = (1, 16)
ROUNDS: Final = 3
SECONDS: Final = 8.0
TOKENS: Final = 64
PARTS: Final = ("tokenize", "encode", "predict", "decide", "rest", "total")
TEXT: Final = (
    "how many ways can the small red train carry nine boxes of green apples from london to a "
    "distant town before noon when each wagon holds at most forty and rain slows every second trip"
)


def queries(encoder: OnnxEncoder, count: int, seed: int = 0) -> list[str]:
    """Distinct queries that the encoder reads as 64 tokens each."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = [f"{number}:", *rng.choice(TEXT.split(), TOKENS)]
        while len(encoder.tokenize(" ".join(words)).ids) > TOKENS:
            words.pop()
        made.append(" ".join(words))
    return made


async def client(port: int, bodies: Sequence[bytes], until: float, seen: list[list[float]]) -> int:
    """One client; appends (milliseconds by part) rows to seen, returns failures."""
    failed, number = 0, int(np.random.default_rng().integers(len(bodies)))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        number += 1
        body = bodies[number % len(bodies)]
        start = time.perf_counter()
        writer.write(
            b"POST /v1/route HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            + f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length.group(1)) if length else 0)
        total = 1000 * (time.perf_counter() - start)
        timing = dict(re.findall(r"(\w+);dur=([\d.]+)", head))
        if not head.startswith("HTTP/1.1 200") or not timing:
            failed += 1
            continue
        parts = [float(timing[name]) for name in PARTS[:4]]
        seen.append([*parts, total - sum(parts), total])
    writer.close()
    return failed


async def load(port: int, clients: int, bodies: Sequence[bytes]) -> tuple[np.ndarray, int]:
    """One round: (requests, parts) milliseconds and the number of failures."""
    seen: list[list[float]] = []
    until = time.perf_counter() + SECONDS
    failures = await asyncio.gather(*(client(port, bodies, until, seen) for _ in range(clients)))
    return np.array(seen), sum(failures)


def worker_memory(port: int) -> float:
    """Resident MiB of the process that listens on the port and answers."""
    found = [
        process.memory_info().rss
        for process in psutil.process_iter(["cmdline"])
        if "_bentoml_impl.worker.service" in " ".join(process.info["cmdline"] or [])
    ]
    return float(max(found)) / 2**20


def measure(settings: Settings) -> dict[str, Any]:
    """Start the service, load it, stop it."""
    folder = settings.home / "registry" / "releases"
    version = (settings.home / "registry" / "current-release").read_text()
    encoder = OnnxEncoder(folder / version / "encoder")
    bodies = [json.dumps({"query": q}).encode() for q in queries(encoder, 500)]
    stack = Stack(settings, print)
    try:
        started = time.perf_counter()
        stack.start(service_alone())
        wait_ready(settings)
        ready = time.perf_counter() - started
        uvloop.run(load(settings.port, 4, bodies))  # warm
        rows = {}
        for clients in CLIENTS:
            rounds = [uvloop.run(load(settings.port, clients, bodies)) for _ in range(ROUNDS)]
            rows[str(clients)] = summarise(rounds)
        memory = worker_memory(settings.port)
    finally:
        stack.stop()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "candidates": len(os.listdir(folder / version / "predictors")),
        "ready_seconds": ready,
        "memory_mib": memory,
        "clients": rows,
    }


def summarise(rounds: Sequence[tuple[np.ndarray, int]]) -> dict[str, Any]:
    """Percentiles over all rounds, throughput of each."""
    times = np.concatenate([seen for seen, _ in rounds])
    return {
        "requests": len(times),
        "failed": sum(failed for _, failed in rounds),
        "per_second": [len(seen) / SECONDS for seen, _ in rounds],
        "milliseconds": {
            part: {
                "p50": float(np.percentile(times[:, i], 50)),
                "p99": float(np.percentile(times[:, i], 99)),
            }
            for i, part in enumerate(PARTS)
        },
        "p50_beyond_encoder": float(np.median(times[:, -1] - times[:, 1])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    settings = read_settings().model_copy(update={"home": arguments.home.resolve()})
    if not (settings.home / "registry" / "current-release").is_file():
        raise SystemExit(f"{settings.home} has no release: make demo")
    results = measure(settings)
    print(f"ready after {results['ready_seconds']:.1f} s, {results['memory_mib']:.0f} MiB resident")
    for clients, row in results["clients"].items():
        rates = ", ".join(f"{rate:.0f}" for rate in row["per_second"])
        print(f"{clients} clients: {rates} decisions per second, {row['failed']} failed")
        print(f"  p50 beyond the encoder: {row['p50_beyond_encoder']:.2f} ms")
        for part, value in row["milliseconds"].items():
            print(f"  {part:<9} p50 {value['p50']:7.2f} ms   p99 {value['p99']:7.2f} ms")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
