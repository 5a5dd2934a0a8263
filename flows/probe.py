"""The flow that probes the champion, on its stored queries, and the running service."""

from __future__ import annotations

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.check_drift import NO_CHAMPION
from flows.context import Scene
from infra.addresses import request_directly
from infra.registry.records import CHAMPION
from models import escape
from models.errors import MixLLMError
from models.release.release import Release
from monitoring.drift.notify import notify
from monitoring.store.audit import Step, note

SECONDS = 10.0


@task(name="release probes", cache_policy=NO_CACHE)
def probe_release(scene: Scene, version: str) -> str:
    """What is wrong; empty where the champion embeds and routes its stored queries as before."""
    try:
        folder = scene.registry.fetch(version)
        Release.load(folder).check_probes(folder)
    except MixLLMError as error:
        return str(error)
    return ""


@task(name="service", cache_policy=NO_CACHE)
def probe_service(scene: Scene, version: str) -> dict[str, str]:
    """Check of the running service → what is wrong, empty where nothing is."""
    settings = scene.settings
    try:
        url = f"{settings.service_url}/v1/release"
        response = request_directly("GET", url, headers=settings.key_header, timeout=SECONDS)
        response.raise_for_status()
        release = response.json()
    except httpx.HTTPError as error:
        return {"answers": f"{settings.service_url}: {error}"}
    served = str(release["version"])
    return {
        "answers": "",
        "serves the champion": "" if served == version else f"{served}, not {version}",
        "follows the registry": release["last_error"] or "",
        "writes to Postgres": release["database_error"] or "",
        "policy state": (release["policy"] or {}).get("last_error") or "",
    }


@flow(name="probe", validate_parameters=False)
def probe() -> dict[str, str]:
    """Probe release and service, and notify people of what is wrong.

    Returns check → what is wrong with it, empty where nothing is.
    """
    scene = Scene.open()
    version = scene.registry.alias(CHAMPION)
    if version is None:
        get_run_logger().info(NO_CHAMPION)
        return {}
    checks = {"stored queries": probe_release(scene, version), **probe_service(scene, version)}
    rows = [{"check": name, "result": wrong or "well"} for name, wrong in checks.items()]
    create_table_artifact(key="probe", table=escape.markdown_rows(rows))
    wrong = {name: what for name, what in checks.items() if what}
    if wrong:
        text = "\n".join(f"{name}: {what}" for name, what in wrong.items())
        get_run_logger().warning("%s", text)
        sent = notify(scene.settings, "A probe failed", text, wrong)
        result = "; ".join(sent) or "no channel"
        note(scene.engine, Step("tell people", f"a probe failed: {text}", result))
    return checks
