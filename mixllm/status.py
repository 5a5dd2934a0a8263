"""What ``mixllm status`` shows: what runs, which release serves, what waits, what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import httpx
from rich.text import Text

from infra.addresses import LOOPBACK, answers, http_url, request_directly
from infra.stack.record import running_stack
from mixllm.console import console, to_second
from mixllm.context import registry, store
from models.errors import MixLLMError
from monitoring.drift.alert_log import list_alerts
from monitoring.store.journals import dead_letters_of, unwritten_rows

if TYPE_CHECKING:
    from infra.settings import Settings


@dataclass(frozen=True)
class Part:
    """One server. address: where it is looked for."""

    address: str
    answers: bool


@dataclass(frozen=True)
class Status:
    """parts: server → whether it answers.
    stack_pid: the supervisor's, where ``mixllm up`` runs.
    serving: what the service says of its release; None where it does not say.
    releases: alias → version, as the registry has it.
    unwritten, dead_letters: journal → rows on this machine.
    open_alerts: newest first.
    errors: what could not be looked up, and why.
    """

    stack_pid: int | None
    parts: Mapping[str, Part]
    serving: Mapping[str, Any] | None
    releases: Mapping[str, str]
    unwritten: Mapping[str, int]
    dead_letters: Mapping[str, int]
    open_alerts: list[dict[str, Any]]
    errors: Mapping[str, str] = field(default_factory=dict)


def read_status(settings: Settings) -> Status:
    """Starts nothing: what does not run is said not to."""
    record = running_stack(settings.home)
    errors: dict[str, str] = {}
    alerts: list[dict[str, Any]] = []
    aliases: dict[str, str] = {}
    if record is not None or settings.database_url is not None:
        try:
            alerts = list_alerts(store(), only_open=True)
        except MixLLMError as error:
            errors["database"] = str(error)
    if record is not None or settings.mlflow_uri is not None:
        try:
            opened = registry(settings)
            aliases = {a: v for a in ("champion", "challenger") if (v := opened.alias(a))}
        except MixLLMError as error:
            errors["registry"] = str(error)
    serving = None
    try:
        serving = read_serving(settings)
    except MixLLMError as error:
        errors["service"] = str(error)
    return Status(
        stack_pid=record.supervisor.pid if record else None,
        parts=read_parts(settings),
        serving=serving,
        releases=aliases,
        unwritten=unwritten_rows(settings.home),
        dead_letters={
            name: letters.count() for name, letters in dead_letters_of(settings.home).items()
        },
        open_alerts=alerts,
        errors=errors,
    )


def read_parts(settings: Settings) -> dict[str, Part]:
    mlflow = settings.mlflow_uri or http_url(LOOPBACK, settings.mlflow_port)
    prefect = settings.prefect_api_url or http_url(LOOPBACK, settings.prefect_port, "/api")
    evidently = http_url(LOOPBACK, settings.evidently_port)
    health = {
        "service": (settings.service_url, f"{settings.service_url}/livez"),
        "mlflow": (mlflow, f"{mlflow}/health"),
        "prefect": (prefect, f"{prefect}/health"),
        "evidently": (evidently, f"{evidently}/api/version"),
    }
    return {
        name: Part(address, address.startswith("http") and answers(url))
        for name, (address, url) in health.items()
    }


def read_serving(settings: Settings) -> dict[str, Any] | None:
    """What the service says of its release; None where no service answers. Raises MixLLMError."""
    try:
        response = request_directly(
            "GET", f"{settings.service_url}/v1/release", headers=settings.key_header
        )
    except httpx.HTTPError:
        return None
    if response.is_error:
        raise MixLLMError(response.json()["error"]["message"])
    return dict(response.json())


def show_status(status: Status) -> None:
    """As lines, the stack first."""
    stack = f"runs (process {status.stack_pid})" if status.stack_pid else "does not run: mixllm up"
    line("stack", stack)
    for name, part in status.parts.items():
        state = ("answers", "green") if part.answers else ("does not answer", "yellow")
        line(name, Text.assemble(state, f"  {part.address}"))
    serving = status.serving
    if serving is not None:
        since = to_second(datetime.fromtimestamp(serving["since"]))
        votes = serving["policy"]["votes"]
        line("release", f"{serving['version']} serves since {since}; {votes} votes learned")
    for alias, version in status.releases.items():
        line(alias, f"release {version}")
    waiting = {name: count for name, count in status.unwritten.items() if count}
    line("unwritten", counts(waiting) or "no rows wait for Postgres")
    refused = {name: count for name, count in status.dead_letters.items() if count}
    if refused:
        line("refused", f"{counts(refused)}; see: mixllm dead-letters list")
    for alert in status.open_alerts:
        about = f" of {alert['subject']}" if alert["subject"] else ""
        raised = to_second(alert["raised_at"])
        line("alert", f"{alert['id']}: {alert['name']}{about}, raised {raised}")
    if status.stack_pid and not status.open_alerts and "database" not in status.errors:
        line("alerts", "none open")
    for name, why in status.errors.items():
        line(name, Text(why, style="red"))


def line(name: str, text: str | Text) -> None:
    console.print(Text.assemble(f"{name:<11}", text), soft_wrap=True, highlight=False)


def counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in rows.items())
