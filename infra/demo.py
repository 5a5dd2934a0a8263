"""The demo: the main job on a simulated evaluation set, through the real service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.table import Table

from infra.settings import Settings
from infra.stack import Part, Stack, answers, service_part
from models.errors import StoreError
from models.evaluation_set import EvaluationSet, write_evaluation_set

READY_SECONDS: Final = 60.0
Train = Callable[[Path, bool], dict[str, Any]]


def run_demo(settings: Settings, queries: int, show: int, console: Console, train: Train) -> None:
    """Simulate, train, register, promote, serve, route over HTTP, show, stop."""
    from models.simulated import simulated_evaluation_set

    started = time.monotonic()
    data = simulated_evaluation_set(queries)
    folder = settings.home / "demo-data"
    shutil.rmtree(folder, ignore_errors=True)
    write_evaluation_set(data, folder)
    console.print(
        f"SIMULATED: {len(data.queries)} queries of {data.queries['source'].nunique()} task families, "
        f"{len(data.candidates)} simulated LLMs, written to {folder}"
    )
    result = train(folder, True)
    console.print(f"release {result['version']} trained, registered and promoted")
    stack = Stack(settings, console.print)
    try:
        stack.start(service_alone)
        wait_ready(settings, result["version"])
        _, test = data.split()
        answered = route_all(settings, test)
    finally:
        stack.stop()
    print_choices(console, test, answered, show)
    print_savings(console, test, answered)
    console.print(f"done in {time.monotonic() - started:.0f} s; the service is stopped")


def service_alone(settings: Settings, database: str) -> list[Part]:
    environment = {
        "MIXLLM_HOME": str(settings.home),
        "MIXLLM_DATABASE_URL": database,
        "BENTOML_DO_NOT_TRACK": "true",
    }
    return [service_part(settings, environment)]


def wait_ready(settings: Settings, version: str) -> None:
    """Until the service answers from that release."""
    deadline = time.monotonic() + READY_SECONDS
    headers = settings.key_header
    while time.monotonic() < deadline:
        if answers(f"{settings.service_url}/readyz"):
            got = httpx.get(f"{settings.service_url}/v1/release", headers=headers).json()
            if got.get("version") == version and got.get("source") == "registry":
                return
        time.sleep(0.2)
    raise StoreError(f"the service did not load release {version} in {READY_SECONDS:.0f} s")


def route_all(settings: Settings, test: EvaluationSet) -> list[dict[str, Any]]:
    """Every test query's answer from ``/v1/route``."""
    answered = []
    with httpx.Client(base_url=settings.service_url, headers=settings.key_header) as client:
        for query in test.queries["query"]:
            response = client.post("/v1/route", json={"query": query, "explain": True}, timeout=30)
            response.raise_for_status()
            answered.append(response.json())
    return answered


def print_choices(
    console: Console, test: EvaluationSet, answered: list[dict[str, Any]], show: int
) -> None:
    table = Table(
        "query",
        "choice",
        "quality",
        "cost, USD",
        "why",
        title="SIMULATED LLMs; quality and cost as predicted",
    )
    families: dict[str, int] = {}
    for query, family, answer in zip(
        test.queries["query"], test.queries["source"], answered, strict=True
    ):
        families[family] = families.get(family, 0) + 1
        if families[family] > max(1, show // test.queries["source"].nunique() + 1):
            continue
        if table.row_count >= show:
            break
        text = " ".join(query.split())
        table.add_row(
            text if len(text) <= 44 else f"{text[:41]}...",
            answer["llm"],
            f"{answer['predicted']['quality']:.2f}",
            f"{answer['predicted']['cost_usd']:.6f}",
            answer["explanation"]["why"].partition("; ")[2],
        )
    console.print(table)


def print_savings(console: Console, test: EvaluationSet, answered: list[dict[str, Any]]) -> None:
    """What the simulated outcomes of the choices were, beside the best LLM's on the same queries."""
    truth = test.outcomes.set_index(["query_id", "llm"])
    keys = list(zip(test.queries["query_id"], (a["llm"] for a in answered), strict=True))
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
        f"{kept:.1%} of its quality kept, {len(answered)} queries routed over HTTP"
    )
