"""What clients see when LLMs fail: each fault alone, then all mixed for minutes; is memory flat?

    python -m benchmarks.faults [--home DIR] [--minutes 10] [--out FILE]

The ``openai`` client, without retries of its own, through the gateway to a simulated fleet on the
same machine. An error is explained when it is one that the gateway documents for what was injected.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import openai

from benchmarks.load import stack
from benchmarks.serving import worker_memory
from infra.fleet.server import FAULTS

QUESTIONS: Final = (
    "Compute 17 + 4. Give only the number.",
    "How many weeks are 70 days?",
    "Sort these words alphabetically and name the third one: velvet, copper, meadow, anchor.",
    "What does this Python program print?\n```python\nprint(sum(range(9)))\n```",
)
MIXED: Final = {
    "429": 0.05,
    "500": 0.03,
    "hang": 0.01,
    "broken": 0.03,
    "slow": 0.05,
    "garbage": 0.03,
}
EXPLAINED: Final = {"RateLimitError 429", "InternalServerError 502", "InternalServerError 504"}
# The home may require keys: other measurements make some.
API_KEY: Final = "faults"
CLIENTS: Final = 4
ALONE: Final = 12
# Hangs are waited for so long.
LIMITS: Final = {"first_token_timeout": 2.0, "total_timeout": 10.0}


async def ask(
    client: openai.AsyncOpenAI, number: int, stream: bool, options: dict[str, Any] | None = None
) -> str:
    """One chat completion, as an outcome in words. options: of its routing."""
    question = f"{QUESTIONS[number % len(QUESTIONS)]} ({number})"
    body: dict[str, Any] = {
        "model": "mixllm",
        "messages": [{"role": "user", "content": question}],
        "stream": stream,
        "extra_body": {"mixllm": options or {}},
    }
    begun = False
    try:
        answer = await client.chat.completions.create(**body)
        told: dict[str, Any] = {}
        if stream:
            async for chunk in answer:
                begun = True
                told = getattr(chunk, "mixllm", told)
        else:
            told = answer.mixllm
        if told.get("cost_usd") is None:
            return "UNEXPLAINED: an answer that does not say its cost"
        return "answered by another" if told["fallback"] else "answered"
    except openai.APIStatusError as error:
        return f"{type(error).__name__} {error.status_code}"
    except openai.APIError as error:
        if (begun and "stream" in str(error)) or "Client" in str(error):
            return "error in the stream, after its first token"
        return f"UNEXPLAINED: {error!r}"
    except Exception as error:
        return f"UNEXPLAINED: {error!r}"


async def alone(client: openai.AsyncOpenAI, fleet: str) -> dict[str, dict[str, int]]:
    """Each fault on every request to the LLM that is chosen, then to every LLM."""
    found: dict[str, dict[str, int]] = {}
    async with httpx.AsyncClient() as http:
        for kind in FAULTS:
            for where in ("sim-frontier", "*"):
                for stream in (False, True):
                    await settled(client, http, fleet)
                    set_faults = await http.put(f"{fleet}/fleet/faults", json={where: {kind: 1.0}})
                    set_faults.raise_for_status()
                    # With one LLM failing: requests that the router would send to it.
                    options = {} if where == "*" else {"willingness_to_pay": 1e6}
                    jobs = [ask(client, i, stream, options) for i in range(ALONE)]
                    name = "one LLM" if where != "*" else "every LLM"
                    told = f"{kind}, {name}, {'streamed' if stream else 'plain'}"
                    found[told] = dict(Counter([await job for job in jobs]))
                    print(f"{told}: {found[told]}", flush=True)
        await settled(client, http, fleet)
    return found


async def settled(client: openai.AsyncOpenAI, http: httpx.AsyncClient, fleet: str) -> None:
    """No faults, and every breaker closed again."""
    (await http.put(f"{fleet}/fleet/faults", json={})).raise_for_status()
    names = [model.id async for model in client.models.list() if model.id != "mixllm"]
    for name in names:
        while True:
            try:
                messages: Any = [{"role": "user", "content": "hello"}]
                await client.chat.completions.create(model=name, messages=messages)
                break
            except openai.APIError:
                await asyncio.sleep(0.5)


async def mixed(
    client: openai.AsyncOpenAI, fleet: str, port: int, minutes: float
) -> dict[str, Any]:
    """All faults on all LLMs, for minutes."""
    seen: Counter[str] = Counter()
    memory: list[float] = []
    until = time.monotonic() + 60 * minutes

    async def one(client_number: int) -> None:
        number = client_number
        while time.monotonic() < until:
            number += CLIENTS
            seen[await ask(client, number, stream=number % 2 == 0)] += 1

    async def watch() -> None:
        while time.monotonic() < until:
            memory.append(round(await asyncio.to_thread(worker_memory, port), 1))
            print(f"{memory[-1]} MiB, {dict(seen)}", flush=True)
            await asyncio.sleep(30)

    async with httpx.AsyncClient() as http:
        (await http.put(f"{fleet}/fleet/faults", json={"*": MIXED})).raise_for_status()
    await asyncio.gather(watch(), *(one(i) for i in range(CLIENTS)))
    unexplained = {
        outcome: count
        for outcome, count in seen.items()
        if outcome.startswith("UNEXPLAINED") or ("Error " in outcome and outcome not in EXPLAINED)
    }
    return {"seen": dict(seen), "unexplained": unexplained, "memory_mib": memory}


async def run(home: Path, minutes: float) -> dict[str, Any]:
    with stack(home, {"MIXLLM_API_KEY": API_KEY}, ["--speed", "20"], LIMITS) as (settings, fleet):
        client = openai.AsyncOpenAI(
            base_url=f"{settings.service_url}/v1", api_key=API_KEY, max_retries=0, timeout=60
        )
        found = {"alone": await alone(client, fleet)}
        await client.close()
        client = openai.AsyncOpenAI(
            base_url=f"{settings.service_url}/v1", api_key=API_KEY, max_retries=0, timeout=60
        )
        result = await mixed(client, fleet, settings.port, minutes)
        await client.close()
    return {**found, "minutes": minutes, "faults": MIXED, "mixed": result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".demo"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments.home.resolve(), arguments.minutes))
    print(json.dumps(found["mixed"], indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if found["mixed"]["unexplained"]:
        raise SystemExit("there were unexplained errors")


if __name__ == "__main__":
    main()
