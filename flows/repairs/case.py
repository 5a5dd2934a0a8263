"""An open alert, and the result of its repair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.context import Scene
from flows.promotion import Settled, settle
from models.drift.signals import Signal
from models.errors import MixLLMError
from models.release.manifest import Manifest, read_manifest
from monitoring.drift.alert_log import Alert
from monitoring.release_gate.judge import Trial
from monitoring.store.audit import Step, note


class NotYet(Exception):
    """A repair has too little data yet; it is tried again."""


@dataclass(frozen=True)
class Made:
    """The result of a repair.

    message: in a sentence.
    version, state: of the release it made, if one.
    """

    message: str
    version: str | None = None
    state: str | None = None


@dataclass(frozen=True)
class Case:
    """One open alert."""

    scene: Scene
    alert: Alert

    @property
    def number(self) -> int:
        return self.alert.id

    @property
    def signal(self) -> Signal:
        return Signal(**self.alert.signal)

    @property
    def acts(self) -> bool:
        """Whether a release that passes the gate is promoted, and other repairs are carried out."""
        return self.alert.mode == "act"

    @property
    def data(self) -> str:
        """The configured evaluation set. Raises MixLLMError."""
        if self.scene.settings.data is None:
            raise MixLLMError("no evaluation set to train on: set MIXLLM_DATA")
        return str(self.scene.settings.data)

    def base(self) -> tuple[str, Path, Manifest]:
        """The champion: version, folder, manifest."""
        version = self.scene.registry.champion()
        folder = self.scene.registry.fetch(version)
        return version, folder, read_manifest(folder)

    def settle(
        self, version: str, moved: dict[str, float] | None = None, after_vote: int = 0
    ) -> str:
        """Judge what the repair made: champion, challenger or refused."""
        trial = Trial(
            version,
            data=self.scene.settings.data,
            moved=moved or {},
            after_vote=after_vote,
            alert_id=self.number,
        )
        settled: Settled = settle(trial, self.scene.settings, promote=self.acts)
        return settled.state

    def note(self, what: str, why: str, result: str, **evidence: Any) -> None:
        note(self.scene.engine, Step(what, why, result, self.number, evidence))
