"""The flow that repairs what open alerts report, each by its mode; every step is in the audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from prefect import flow, get_run_logger

from flows.context import Scene
from flows.repairs.case import Case, Made, NotYet
from flows.repairs.domains import recluster
from flows.repairs.policy import leave_out_voter, rollback_policy
from flows.repairs.predictor import refit
from flows.repairs.release import raise_beta, retrain, retune
from models.drift.alerts import KINDS
from monitoring.drift.alert_log import close_alert, open_alerts
from monitoring.drift.alert_text import alert_details, alert_text, alert_title
from monitoring.drift.notify import notify
from monitoring.store.audit import read_audit
from monitoring.store.locks import exclusive

# How often a repair that fails is tried.
ATTEMPTS: Final = 3
TELLS: Final = frozenset({"tell people", "tell people what came of it"})


@flow(name="repair", validate_parameters=False)
def repair() -> dict[str, Any]:
    """Repair every open alert, the oldest first. Returns {"closed": [[alert, outcome]], "waiting"}."""
    scene = Scene.open()
    closed: list[list[Any]] = []
    waiting: list[list[Any]] = []
    with exclusive(scene.engine, "repair"):
        for alert in open_alerts(scene.engine):
            outcome = repair_one(Case(scene, alert))
            (waiting if outcome is None else closed).append([alert.id, outcome])
    return {"closed": closed, "waiting": waiting}


def repair_one(case: Case) -> str | None:
    """Repair one alert; returns the outcome, None where it is to be tried again."""
    log, alert = get_run_logger(), case.alert
    steps = read_audit(case.scene.engine, case.number)
    if not any(
        step["what"] in TELLS for step in steps
    ):  # the flow that raised it died before notifying
        notify_people(case, "tell people", "", {})
    if alert.mode == "observe":
        return close(case, "observed")
    if alert.release_digest != case.base()[2].digest:
        return close(case, f"release {alert.release_version} is not champion: nothing to repair")
    name = KINDS[alert.name].repair
    try:
        made = REPAIRS[name](case)
    except NotYet as error:
        log.info("alert %d: %s", case.number, error)
        return None
    except Exception as error:  # it is in the audit, and tried again
        log.exception("alert %d: %s failed", case.number, name)
        failed = sum(step["what"] == f"{name} failed" for step in steps) + 1
        attempt = f"attempt {failed} of {ATTEMPTS}"
        case.note(f"{name} failed", f"{type(error).__name__}: {error}", attempt)
        if failed < ATTEMPTS:
            return None
        return close(case, f"{name} failed {ATTEMPTS} times: {error}")
    case.note(name, alert_title(case.signal), made.message, version=made.version, state=made.state)
    return close(case, made.message)


def close(case: Case, outcome: str) -> str:
    """Close the alert and notify people of the outcome."""
    close_alert(case.scene.engine, case.number, outcome)
    if case.alert.mode != "observe":
        notify_people(case, "tell people what came of it", outcome, {"outcome": outcome})
    get_run_logger().info("alert %d: %s", case.number, outcome)
    return outcome


def notify_people(case: Case, what: str, outcome: str, more: dict[str, Any]) -> None:
    scene, signal = case.scene, case.signal
    version = case.alert.release_version
    details = alert_details(case.number, signal, version, scene.rules, "mixllm drift list") | more
    text = f"{outcome}\n{alert_text(details)}".strip()
    sent = notify(scene.settings, alert_title(signal), text, details)
    case.note(what, outcome or alert_title(signal), "; ".join(sent) or "no channel is configured")


def only_notify(case: Case) -> Made:
    return Made("people were notified; this alert has no automatic repair")


REPAIRS: Final[dict[str, Callable[[Case], Made]]] = {
    "refit": refit,
    "recluster": recluster,
    "raise-beta": raise_beta,
    "rollback-policy": rollback_policy,
    "leave-out-voter": leave_out_voter,
    "retrain": retrain,
    "retune": retune,
    "tell": only_notify,
}
