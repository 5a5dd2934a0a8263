"""What the registry keeps of a release: aliases, tags, verdicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

log = logging.getLogger("mixllm.registry")

ROUTER: Final = "mixllm-router"
EXPERIMENT: Final = "mixllm"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
DISABLED_TAG: Final = "disabled"
CANARY_TAG: Final = "canary"
VERDICT_TAG: Final = "gate.verdict"
FORCED_TAG: Final = "gate.forced"
# One tag a verdict, numbered, never overwritten; ``gate.*`` repeats the one that counts.
HISTORY_TAG: Final = "gate.history."
# Why the service does not load a release.
SERVING_TAG: Final = "serving.refused"
MAX_TAG: Final = 4500
HISTORY: Final = {
    "number", "at", "verdict", "measured", "failed", "against", "reason", "changed", "data", "inputs",
}  # fmt: skip
ALIASES: Final = (CHAMPION, CHALLENGER, PREVIOUS)


@dataclass(frozen=True)
class ReleaseRow:
    """One registered release as ``mixllm releases`` shows it."""

    version: str
    aliases: tuple[str, ...]
    created: float
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Canary:
    """A release that answers a share of the live queries. by: keys, whose every query it then
    answers, or traffic, query by query."""

    version: str
    share: float
    by: str = "traffic"

    @classmethod
    def of(cls, told: Any) -> Canary:
        """From parsed JSON. Raises ValueError, TypeError, KeyError."""
        share, by = float(told["share"]), str(told.get("by", "traffic"))
        if not 0 <= share <= 1 or by not in ("keys", "traffic"):
            raise ValueError(f"no canary: {told}")
        return cls(str(told["version"]), share, by)


def is_forced(tags: Mapping[str, str]) -> bool:
    """Whether people want the release whatever its newest verdict says."""
    forced = tags.get(FORCED_TAG)
    return forced is not None and forced in ("true", tags.get("gate.number", "0"))


def gate_state(tags: Mapping[str, str]) -> str:
    """What the gate says of a release, in a few words."""
    word = tags.get(VERDICT_TAG)
    if word is None:
        return "not judged"
    number = tags.get("gate.number")
    state = f"{word} (verdict {number})" if number else word
    return f"{state}, forced" if is_forced(tags) else state


def verdicts_of(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """The history in a release's tags, the oldest first; what cannot be read is left out."""
    rows = []
    for name, text in sorted(tags.items()):
        if not name.startswith(HISTORY_TAG):
            continue
        try:
            row = json.loads(text)
        except ValueError:
            log.warning("tag %s is not JSON", name)
            continue
        if isinstance(row, dict) and row.keys() >= HISTORY and isinstance(row["inputs"], dict):
            rows.append(row)
    return rows
