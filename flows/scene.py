"""What the flows that watch and mend stand on."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from infra.registry import Registry
from infra.settings import Settings, read_settings
from models.alerts import Rules, read_rules
from monitoring.drift import Sizes
from monitoring.schema import open_store


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
        registry = Registry(settings.registry_uri, settings.home / "registry")
        return cls(settings, registry, open_store(settings), read_rules(settings.alerts))

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.settings.drift_reference, self.settings.drift_window)
