"""What events, webhooks and mails say of an alert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.drift.alerts import KINDS, Rules
from models.drift.signals import Signal


def alert_title(signal: Signal) -> str:
    about = f": {signal.subject}" if signal.subject else ""
    return f"{KINDS[signal.alert].title}{about}"


def alert_details(
    number: int, signal: Signal, version: str, rules: Rules, address: str
) -> dict[str, Any]:
    """What an event, a webhook and a mail say of an alert."""
    kind = KINDS[signal.alert]
    return {
        "alert": number,
        "name": signal.alert,
        "subject": signal.subject,
        "release": version,
        "signal": vars(signal),
        "repair": kind.repair,
        "mode": rules[signal.alert].mode,
        "runbook": kind.page(signal.alert),
        "report": address,
    }


def alert_text(details: Mapping[str, Any]) -> str:
    signal = details["signal"]
    was = "" if signal["reference"] is None else f", was {signal['reference']:.3g}"
    return "\n".join(
        [
            f"{signal['what']}: {signal['now']:.3g}{was} (release {details['release']}).",
            f"Repair: {details['repair']}, mode {details['mode']}. Runbook: {details['runbook']}",
            f"Report: {details['report']}",
            f"mixllm alerts show {details['alert']}",
        ]
    )
