"""What the flows that watch and repair share."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from infra.registry.registry import Registry
from infra.settings import Settings, read_settings
from models.drift.alerts import Rules, read_rules
from models.learning.policy_state import PolicyState
from models.release.manifest import read_manifest
from models.release.release import compiled_release
from monitoring.drift.checks import Sizes
from monitoring.learning.learner import Subject
from monitoring.store.releases import Parts
from monitoring.store.schema import open_store


@dataclass(frozen=True)
class Scene:
    """Settings, and what they lead to; opened once a flow."""

    settings: Settings
    registry: Registry
    engine: Engine
    rules: Rules

    @classmethod
    def open(cls) -> Scene:
        settings = read_settings()
        registry = Registry.of(settings)
        return cls(settings, registry, open_store(settings), read_rules(settings.alerts))

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.settings.drift_reference, self.settings.drift_window)


def subject_of(settings: Settings, version: str | None = None) -> Subject:
    """The release to teach: the champion when not said. Raises NoRelease."""
    registry = Registry.of(settings)
    folder = registry.fetch(version or registry.champion())
    manifest = read_manifest(folder)
    untaught = PolicyState.untaught(manifest.digest, compiled_release(folder))
    return Subject(untaught, Parts.of(manifest))
