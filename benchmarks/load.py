"""The service under load by wrk: ``/v1/route``, and chat completions with instant upstreams.

    python -m benchmarks.load [--home DIR] [--out FILE] [--variant NAME ...]

wrk (Debian's package) and a simulated fleet run on the same machine. The queries are of 64 tokens.
"overhead": a chat completion's p50 at one client, less the upstream's own and the encoder's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from benchmarks.serving import queries, worker_memory
from infra.addresses import LOOPBACK, free_loopback_port, http_url
from infra.fleet.server import with_upstreams
from infra.settings import Settings, read_settings
from infra.stack.parts import Part, python_module, service_alone
from infra.stack.stack import Stack, wait_ready
from models.data.simulated import simulated_evaluation_set
from models.encoder.onnx import CONFIG_FILE, OnnxEncoder

SCRIPT: Final = Path(__file__).parent / "load.lua"
CLIENTS: Final = (1, 16, 64)
SECONDS: Final = 5
ROUNDS: Final = 3
# What the service is started with.
VARIANTS: Final[dict[str, dict[str, str]]] = {
    "default": {},
    "2 workers": {"MIXLLM_WORKERS": "2"},
}


def wrk(url: str, bodies: Path, clients: int) -> dict[str, float]:
    """One round. Raises SystemExit where wrk is missing."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--timeout", "30s"]
    command += ["-s", str(SCRIPT), url, "--", str(bodies)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (.*)", told)
    assert found is not None, told
    result: dict[str, float] = json.loads(found.group(1))
    return result


def rounds(url: str, bodies: Path) -> dict[str, Any]:
    """Every number of clients, several rounds each: medians, and the rates of all."""
    rows = {}
    for clients in CLIENTS:
        got = [wrk(url, bodies, clients) for _ in range(ROUNDS)]
        rates = [row["requests"] / row["seconds"] for row in got]
        rows[str(clients)] = {
            "per_second": sorted(rates),
            "failed": sum(row["failed"] for row in got),
            **{p: float(np.median([row[p] for row in got])) for p in ("p50", "p95", "p99")},
        }
    return rows


@contextmanager
def stack(
    home: Path,
    environment: dict[str, str],
    pace: Sequence[str] = ("--instant", "--concurrency", "1000"),
    limits: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Settings, str]]:
    """The service in front of a fleet; (its settings, the fleet's address). limits: of each
    ``Upstream``."""
    port = free_loopback_port()
    catalog = home / "load-catalog.yaml"
    entries = simulated_evaluation_set(200).catalog
    address = http_url(LOOPBACK, port)
    catalog.write_text(with_upstreams(entries, address, **(limits or {})).dump_yaml())
    settings = read_settings().model_copy(update={"home": home, "port": free_loopback_port()})

    def parts(settings: Settings, database: str) -> list[Part]:
        fleet = python_module("mixllm", "fleet", "--port", str(port), *pace)
        return [
            Part("fleet", fleet, f"{address}/v1", f"{address}/fleet"),
            *service_alone(MIXLLM_CATALOG=str(catalog), **environment)(settings, database),
        ]

    running = Stack(settings, print)
    try:
        running.start(parts)
        wait_ready(settings)
        yield settings, address
    finally:
        running.stop()


def measure(home: Path, environment: dict[str, str], encoder: OnnxEncoder) -> dict[str, Any]:
    """One variant."""
    texts = queries(encoder, 500)
    with stack(home, environment) as (settings, fleet), tempfile.TemporaryDirectory() as folder:

        def bodies(name: str, made: list[dict[str, Any]]) -> Path:
            path = Path(folder) / name
            path.write_text("".join(json.dumps(body) + "\n" for body in made))
            return path

        def chats(model: str, **more: Any) -> list[dict[str, Any]]:
            messages = [[{"role": "user", "content": text}] for text in texts]
            return [{"model": model, "messages": asked, **more} for asked in messages]

        route, chat = f"{settings.service_url}/v1/route", "/v1/chat/completions"
        asked = bodies("route", [{"query": text} for text in texts])
        wrk(route, asked, 4)  # warm
        found = {
            "route": rounds(route, asked),
            "chat": rounds(settings.service_url + chat, bodies("chat", chats("mixllm"))),
            "chat, streamed": rounds(
                settings.service_url + chat, bodies("stream", chats("mixllm", stream=True))
            ),
            "upstream alone": rounds(fleet + chat, bodies("direct", chats("sim-mini"))),
        }
        encode = encode_milliseconds(route, texts)
        memory = worker_memory(settings.port)
    alone = found["chat"]["1"]["p50"] - found["upstream alone"]["1"]["p50"]
    return {
        "load": found,
        "encode_p50": encode,
        "overhead": alone - encode,
        "memory_mib": memory,
    }


def encode_milliseconds(route: str, texts: list[str]) -> float:
    """The encoder's median time in the service, one request at a time."""
    taken = []
    with httpx.Client() as client:
        for text in texts[:200]:
            timing = client.post(route, json={"query": text}).headers["server-timing"]
            found = re.search(r"encode;dur=([\d.]+)", timing)
            assert found is not None
            taken.append(float(found.group(1)))
    return float(np.median(taken))


def show(name: str, row: dict[str, Any]) -> None:
    print(
        f"{name}: encoder p50 {row['encode_p50']:.2f} ms, gateway overhead beyond it "
        f"{row['overhead']:.2f} ms, {row['memory_mib']:.0f} MiB"
    )
    for what, loads in row["load"].items():
        for clients, got in loads.items():
            low, high = got["per_second"][0], got["per_second"][-1]
            print(
                f"  {what:<15} {clients:>2} clients: {low:6.0f} to {high:6.0f} a second, "
                f"p50 {got['p50']:7.2f}  p95 {got['p95']:7.2f}  p99 {got['p99']:7.2f} ms, "
                f"{got['failed']} failed"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    marker = home / "registry" / "current-release"
    if not marker.is_file():
        raise SystemExit(f"{home} has no release: make demo")
    folder = home / "registry" / "releases" / marker.read_text() / "encoder"
    encoder = OnnxEncoder(folder)
    precision = json.loads((folder / CONFIG_FILE).read_text())["precision"]
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "encoder": precision,
        "variants": {},
    }
    print(f"{precision} encoder; {ROUNDS} rounds of {SECONDS} s each", file=sys.stderr)
    for name in arguments.variant or VARIANTS:
        results["variants"][name] = measure(home, VARIANTS[name], encoder)
        show(name, results["variants"][name])
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
