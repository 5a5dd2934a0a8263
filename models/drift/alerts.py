"""Alerts: which signals call for a repair, when they are raised, and what may be done about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.drift.signals import THRESHOLDS, Signal
from models.errors import SettingsError, nearest
from models.files.regular_file import UnusableFile
from models.files.yaml_file import read_yaml

Mode = Literal["observe", "propose", "act"]
Repair = Literal[
    "refit", "recluster", "retune", "rollback-policy", "raise-beta", "leave-out-voter", "retrain", "tell"
]  # fmt: skip


class Rule(BaseModel):
    """What is done about one alert.

    mode: observe (write it down), propose (repair to a challenger, tell people), act (also promote
    what passes the gate). cooldown_hours: it is not raised again about the same subject so soon.
    least_effect: what is too little to matter, in the alert's units.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = "propose"
    cooldown_hours: Annotated[float, Field(ge=0)] = 24.0
    least_effect: Annotated[float, Field(gt=0)] | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of alert.

    title: what people read.
    repair: its repair's name.
    mode: unless the rules say otherwise.
    """

    title: str
    repair: Repair
    mode: Mode = "propose"

    def page(self, name: str) -> str:
        """Its runbook page in the repository."""
        return f"docs/runbooks/{name}.md"


KINDS: Final[dict[str, Kind]] = {
    "predictor-drift": Kind("An LLM no longer does as predicted", "refit"),
    "slower-than-foreseen": Kind("An LLM answers more slowly", "tell"),
    "latency-cascade": Kind("Choices collapse onto a waiting LLM", "raise-beta"),
    "unseen-domains": Kind("More queries of no known domain", "recluster"),
    "query-drift": Kind("Queries are not what they were", "retune", "observe"),
    "cost-above-forecast": Kind("Answers cost more than predicted", "tell"),
    "feedback-drying-up": Kind("Feedback dries up", "tell"),
    "learning-unstable": Kind("Online learning is unstable", "rollback-policy"),
    "feedback-poisoned": Kind("Feedback is poisoned", "leave-out-voter"),
    "stale-release": Kind("The release is old", "retrain", "observe"),
    "rows-refused": Kind("Postgres refuses rows", "tell"),
}
assert set(KINDS) == set(THRESHOLDS)


@dataclass(frozen=True)
class Rules:
    """A rule for every alert."""

    by_name: Mapping[str, Rule]

    def __getitem__(self, name: str) -> Rule:
        return self.by_name[name]

    @property
    def thresholds(self) -> dict[str, float]:
        """Alert → its least effect."""
        return {name: rule.least_effect or THRESHOLDS[name] for name, rule in self.by_name.items()}


def read_rules(path: Path | None) -> Rules:
    """The built-in rules, with those of a YAML file (alert → fields of ``Rule``) in their place.

    Raises SettingsError.
    """
    rules = {name: Rule(mode=kind.mode) for name, kind in KINDS.items()}
    if path is None:
        return Rules(rules)
    try:
        given = read_yaml(path) or {}
    except UnusableFile as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(given, dict):
        raise SettingsError(f"{path}: expected a mapping of alerts to their rules")
    for name, fields in given.items():
        if name not in rules:
            raise SettingsError(f"{path}: no alert {name!r}; {nearest(str(name), rules)}")
        try:
            rules[name] = Rule.model_validate({**rules[name].model_dump(), **(fields or {})})
        except (ValidationError, TypeError) as error:
            told = error.errors()[0] if isinstance(error, ValidationError) else {"msg": str(error)}
            where = ".".join(map(str, told.get("loc", ())))
            raise SettingsError(f"{path}: {name}.{where}: {told['msg']}") from error
    return Rules(rules)


def raised(
    now: Sequence[Signal],
    before: Sequence[tuple[str, str | None]],
    last_raised: Mapping[tuple[str, str | None], datetime],
    rules: Rules,
    at: datetime,
) -> list[Signal]:
    """The signals that become alerts: lit in two windows in a row or beyond doubt, and not cooling down.

    before: the alert and subject of those lit in the window before. last_raised: when each was
    raised last. One alert a subject, by its surest signal.
    """
    out: dict[tuple[str, str | None], Signal] = {}
    for signal in now:
        if not signal.lit or signal.key in out:
            continue
        last = last_raised.get(signal.key)
        cooling = timedelta(hours=rules[signal.alert].cooldown_hours)
        # Raised "in the future" it was before the clock went back: that silences nothing for long.
        if last is not None and abs(at - last) < cooling:
            continue
        if signal.certain or signal.key in before:
            out[signal.key] = signal
    return list(out.values())
