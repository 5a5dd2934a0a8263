"""The flow that checks for drift: window, signals, report, alerts; an alert ends the canary."""

from __future__ import annotations

from typing import Any, Final

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from flows.context import Scene
from infra.registry.records import CHALLENGER, CHAMPION
from models import escape
from models.drift.alerts import KINDS
from models.release.manifest import read_manifest
from monitoring.drift.alert_text import alert_details, alert_text, alert_title
from monitoring.drift.checks import (
    CheckedWindow,
    TooEarly,
    Watched,
    check_canary,
    check_drift,
    unreported,
)
from monitoring.drift.notify import notify
from monitoring.drift.page import Page
from monitoring.drift.report import write_report
from monitoring.drift.window_log import set_report
from monitoring.store.audit import Step, note
from monitoring.store.shadows import shadow_summary

NO_CHAMPION: Final = "no release is champion yet"
EVENT: Final = "mixllm.alert.raised"


@task(name="check the champion", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def check_champion(scene: Scene, version: str, *, force: bool) -> CheckedWindow | TooEarly:
    """The champion's next window."""
    release = watched(scene, version)
    return check_drift(scene.engine, release, scene.rules, scene.sizes, force=force)


@task(name="check the canary", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def check_canary_window(scene: Scene, canary: str, champion: str) -> CheckedWindow | TooEarly:
    """The canary's next window, against what the champion decided meanwhile."""
    digest = read_manifest(scene.registry.fetch(champion)).digest
    return check_canary(scene.engine, watched(scene, canary), digest, scene.rules, scene.sizes)


def watched(scene: Scene, version: str) -> Watched:
    return Watched(version, read_manifest(scene.registry.fetch(version)))


@flow(name="check-drift", validate_parameters=False)
def check_drift_flow(
    force: bool = False,  # noqa: FBT001 - a deployment's parameter
) -> dict[str, Any]:
    """Check what was decided since the last check for drift.

    force: however few decisions have come.

    Returns {"message", "window", "lit", "alerts", "report"}.
    """
    scene = Scene.open()
    champion, canary = scene.registry.alias(CHAMPION), scene.registry.canary()
    if champion is None:  # the stack is new: this is no failure
        return nothing(NO_CHAMPION)
    if canary is not None and canary.version != champion:
        checked = check_canary_window(scene, canary.version, champion)
        get_run_logger().info("canary, release %s: %s", canary.version, checked.message)
        if isinstance(checked, CheckedWindow):
            follow_up(scene, canary.version, checked)
    manifest = read_manifest(scene.registry.fetch(champion))
    for missed in unreported(scene.engine, manifest, scene.sizes):
        get_run_logger().warning("%s", missed.message)
        report(scene, champion, missed)
    checked = check_champion(scene, champion, force=force)
    if isinstance(checked, TooEarly):
        return nothing(checked.message)
    get_run_logger().info("release %s: %s", champion, checked.message)
    address: str = follow_up(scene, champion, checked)
    return {
        "message": checked.message,
        "window": checked.id,
        "lit": [s.key for s in checked.compared.signals if s.lit],
        "alerts": [[number, *s.key] for number, s in checked.alerts.items()],
        "report": address,
    }


def nothing(message: str) -> dict[str, Any]:
    """What the flow returns where no window was checked."""
    get_run_logger().info("%s", message)
    return {"message": message, "window": None, "lit": [], "alerts": [], "report": None}


def follow_up(scene: Scene, version: str, checked: CheckedWindow) -> str:
    """Report and alerts of a window; returns the report's address."""
    address: str = report(scene, version, checked)
    if checked.alerts:
        notify_people(scene, version, checked, address)
        end_canary(scene, checked)
    return address


@task(name="report", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def report(scene: Scene, version: str, checked: CheckedWindow) -> str:
    """Write the page: to home, to Evidently's workspace, to MLflow on the release."""
    file = scene.settings.home / "drift" / f"window-{checked.id}.html"
    compared = checked.compared
    page = Page(
        f"Release {version}, window {checked.id}",
        compared.reference,
        compared.window,
        compared.signals,
        checked.alerts,
        compared.past,
        scene.rules,
        challenger_lines(scene),
    )
    files = write_report(page, file, scene.settings.home / "evidently")
    lit = ", ".join(sorted({s.alert for s in compared.signals if s.lit})) or "nothing"
    tags = {"drift.last": f"window {checked.id}: {lit}"}
    scene.registry.note_evaluation(version, "drift", files, tags)
    address = scene.registry.artifact_page(version, f"drift/{file.name}") or file.as_uri()
    set_report(scene.engine, checked.id, address)
    create_link_artifact(link=address, link_text=f"drift report: {page.title}", key="drift-report")
    create_markdown_artifact(key="drift", markdown=digest(page, checked.message, address))
    return address


def challenger_lines(scene: Scene) -> list[str]:
    """What is known of the challenger: its gate, and its shadow."""
    version = scene.registry.alias(CHALLENGER)
    if version is None or version == scene.registry.alias(CHAMPION):
        return []
    tags = scene.registry.tags(version)
    lines = [f"Release {version}, gate: {tags.get('gate.why', 'not judged')}."]
    lines += tags.get("gate.figures", "").splitlines()
    manifest = read_manifest(scene.registry.fetch(version))
    summary = shadow_summary(scene.engine, manifest.digest)
    return [*lines, summary] if summary else lines


def digest(page: Page, message: str, address: str) -> str:
    """Markdown for the flow run's page."""
    lines = [f"**{page.title}**: {escape.markdown(message)}. [The report]({address})", ""]
    for s in page.signals:
        if s.lit:
            about = f" ({escape.markdown(s.subject)})" if s.subject else ""
            lines.append(f"- {KINDS[s.alert].title}{about}: {escape.markdown(s.what)} {s.now:.3g}")
    return "\n".join(lines)


@task(name="notify", cache_policy=NO_CACHE)
def notify_people(scene: Scene, version: str, checked: CheckedWindow, address: str) -> None:
    """Emit an event for each alert, which starts its repair, and notify people."""
    for number, signal in checked.alerts.items():
        details = alert_details(number, signal, version, scene.rules, address)
        emit_event(
            EVENT,
            resource={
                "prefect.resource.id": f"mixllm.alert.{signal.alert}",
                "prefect.resource.name": KINDS[signal.alert].title,
                "mixllm.subject": signal.subject or "",
            },
            payload=details,
        )
        sent = notify(scene.settings, alert_title(signal), alert_text(details), details)
        result = "; ".join(sent) or "no channel is configured"
        note(scene.engine, Step("tell people", alert_title(signal), result, number))


def end_canary(scene: Scene, checked: CheckedWindow) -> None:
    """An alert ends the canary: the champion gets all traffic again."""
    canary = scene.registry.canary()
    if canary is None or not checked.alerts:
        return
    scene.registry.set_canary(None)
    number, signal = next(iter(checked.alerts.items()))
    why = f"alert {number}: {alert_title(signal)}"
    result = f"release {canary.version} gets no more traffic"
    note(scene.engine, Step("end canary", why, result, number, {"share": canary.share}))
    notify(scene.settings, "The canary has ended", f"{why}; {result}", {"alert": number})
    get_run_logger().warning("%s; %s", why, result)
