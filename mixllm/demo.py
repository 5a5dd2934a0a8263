"""The demo: the main job on a simulated evaluation set, through the real service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from infra.addresses import answers, direct_client, request_directly
from infra.fleet.answers import RecordedAnswers
from infra.fleet.server import Fleet, with_upstreams
from infra.fleet.thread import FleetThread
from infra.settings import Settings
from infra.stack.parts import service_alone
from infra.stack.stack import Stack
from models.data.evaluation_set import EvaluationSet
from models.data.files import write_evaluation_set
from models.errors import StoreError

READY_SECONDS: Final = 60.0
SPEED: Final = 20.0
CLIENTS: Final = 8
# An evaluation set's folder → the training flow's result: a release that is champion.
Train = Callable[[Path], dict[str, Any]]


def run_demo(settings: Settings, queries: int, show: int, console: Console, train: Train) -> None:
    """Simulate, train, register, promote, serve, ask over HTTP, show, stop."""
    from models.data.simulated import right_answers, simulated_evaluation_set

    started = time.monotonic()
    data = simulated_evaluation_set(queries)
    folder = settings.home / "demo-data"
    shutil.rmtree(folder, ignore_errors=True)
    write_evaluation_set(data, folder)
    console.print(
        f"SIMULATED: {len(data.queries)} queries of {data.queries['source'].nunique()} task families, "
        f"{len(data.candidates)} simulated LLMs, written to {folder}"
    )
    result = train(folder)
    console.print(f"release {result['version']} trained, registered and promoted")
    stack = Stack(settings, console.print)
    _, test = data.split()
    rows = shown_rows(test, show)
    recorded = RecordedAnswers(data, right_answers(queries))
    with FleetThread(Fleet(data.catalog, recorded, speed=SPEED)) as fleet:
        catalog = folder / "upstreams.yaml"
        catalog.write_text(with_upstreams(data.catalog, fleet.address).dump_yaml())
        console.print(
            f"fleet     {fleet.address}/v1, SIMULATED, {SPEED:g} times as fast as real LLMs"
        )
        try:
            stack.start(service_alone(MIXLLM_CATALOG=str(catalog)))
            wait_release(settings, result["version"])
            answered = ask_all(settings, test)
            why = explain_some(settings, [test.queries["query"].iloc[i] for i in rows])
        finally:
            stack.stop()
    print_answers(console, test, answered, rows, why)
    print_savings(console, test, answered)
    console.print(f"done in {time.monotonic() - started:.0f} s; the service is stopped")


def wait_release(settings: Settings, version: str) -> None:
    """Until the service answers from that release."""
    deadline = time.monotonic() + READY_SECONDS
    headers = settings.key_header
    while time.monotonic() < deadline:
        if answers(f"{settings.service_url}/readyz"):
            url = f"{settings.service_url}/v1/release"
            got = request_directly("GET", url, headers=headers).json()
            if got.get("version") == version and got.get("source") == "registry":
                return
        time.sleep(0.2)
    raise StoreError(f"the service did not load release {version} in {READY_SECONDS:.0f} s")


@dataclass(frozen=True)
class Answered:
    """One chat completion, as the client got it."""

    llm: str
    text: str
    cost_usd: float
    seconds: float
    fallback: str | None


def ask_all(settings: Settings, test: EvaluationSet) -> list[Answered]:
    """Every test query as a chat completion through the gateway, several at a time."""

    def ask(query: str) -> Answered:
        started = time.monotonic()
        messages = [{"role": "user", "content": query}]
        response = client.post(
            "/v1/chat/completions", json={"model": "mixllm", "messages": messages}, timeout=60
        )
        response.raise_for_status()
        answer = response.json()
        told, text = answer["mixllm"], answer["choices"][0]["message"]["content"]
        seconds = time.monotonic() - started
        return Answered(told["llm"], text, told["cost_usd"], seconds, told["fallback"])

    with (
        direct_client(base_url=settings.service_url, headers=settings.key_header) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        return list(pool.map(ask, test.queries["query"]))


def explain_some(settings: Settings, queries: Sequence[str]) -> list[str]:
    """Why ``/v1/route`` chooses as it does."""
    with direct_client(base_url=settings.service_url, headers=settings.key_header) as client:
        found = []
        for query in queries:
            body = {"query": query, "explain": True}
            response = client.post("/v1/route", json=body, timeout=30).raise_for_status()
            found.append(str(response.json()["explanation"]["why"]).partition("; ")[2])
        return found


def shown_rows(test: EvaluationSet, show: int) -> list[int]:
    """Rows of every task family in turn."""
    order = test.queries.groupby("source").cumcount()
    rows = sorted(range(len(order)), key=lambda i: (order.iloc[i], test.queries["source"].iloc[i]))
    return sorted(rows[:show])


def print_answers(
    console: Console, test: EvaluationSet, answered: list[Answered], rows: list[int], why: list[str]
) -> None:
    table = Table(
        "query",
        "answered by",
        "right",
        "cost, USD",
        "why",
        title="SIMULATED LLMs, asked over HTTP through the gateway",
    )
    quality = test.outcomes.set_index(["query_id", "llm"])["quality"]
    for i, reason in zip(rows, why, strict=True):
        text = " ".join(test.queries["query"].iloc[i].split())
        right = quality[test.queries["query_id"].iloc[i], answered[i].llm]
        table.add_row(
            text if len(text) <= 44 else f"{text[:41]}...",
            answered[i].llm,
            "yes" if right == 1.0 else "no",
            f"{answered[i].cost_usd:.6f}",
            reason,
        )
    console.print(table)


def print_savings(console: Console, test: EvaluationSet, answered: list[Answered]) -> None:
    """What the simulated outcomes of the choices were, beside the best LLM's on the same queries."""
    truth = test.outcomes.set_index(["query_id", "llm"])
    keys = list(zip(test.queries["query_id"], (a.llm for a in answered), strict=True))
    chosen = truth.loc[keys]
    by_llm = test.outcomes.groupby("llm")[["quality", "cost_usd"]].mean()
    best = str(by_llm["quality"].idxmax())
    quality, cost = chosen["quality"].mean(), chosen["cost_usd"].mean()
    table = Table("on the same unseen queries", "mean quality", "USD per 1,000 queries")
    table.add_row("routed by MixLLM", f"{quality:.3f}", f"{1000 * cost:.3f}")
    for name, row in by_llm.sort_values("quality", ascending=False).iterrows():
        label = f"always {name}" + (" (the best)" if name == best else "")
        table.add_row(label, f"{row['quality']:.3f}", f"{1000 * row['cost_usd']:.3f}")
    console.print(table)
    saved = 1 - cost / float(by_llm["cost_usd"][best])
    kept = quality / float(by_llm["quality"][best])
    console.print(
        f"SIMULATED: {saved:.0%} of the cost saved against always using {best}, "
        f"{kept:.1%} of its quality kept, {len(answered)} chat completions through the gateway"
    )
