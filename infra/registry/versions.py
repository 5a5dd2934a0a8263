"""Registered versions and aliases as MLflow keeps them: what only reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from infra.addresses import without_login
from infra.registry.mlflow_store import opening
from infra.registry.records import ALIASES, CHAMPION, EXPERIMENT, ROUTER, ReleaseRow
from models.errors import NoRelease, RegistryError

# MLflow's error codes for what does not exist; any other error says nothing about that.
ABSENT: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class Versions:
    """An MLflow server or database.

    uri: a server's address or a database's.
    home: where artifacts lie when the uri is a local database, and where downloaded ones are kept.
    """

    def __init__(self, uri: str, home: Path) -> None:
        self.uri = uri
        self.address = without_login(uri)  # for messages and links
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        # A server that hangs must not hold a poll for the minutes that MLflow would wait.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # It says "waiting" once a version that is ready at once.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # A kept connection that the server closed is tried again, which is no news.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        with opening(uri, home):
            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def alias(self, alias: str) -> str | None:
        """The router version that an alias names, or None."""
        try:
            return str(self.client.get_model_version_by_alias(ROUTER, alias).version)
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise RegistryError(f"MLflow at {self.address}: {error}") from error

    def champion(self) -> str:
        """The champion's version. Raises NoRelease."""
        version = self.alias(CHAMPION)
        if version is None:
            raise NoRelease("no release is champion yet: mixllm train --data DIR --promote")
        return version

    def releases(self) -> list[ReleaseRow]:
        """Every registered release, the newest first."""
        versions = self.client.search_model_versions(
            f"name = '{ROUTER}'", max_results=1000, order_by=["version_number DESC"]
        )
        by_alias = {alias: self.alias(alias) for alias in ALIASES} if versions else {}
        return [
            ReleaseRow(
                version=str(v.version),
                aliases=tuple(a for a, at in by_alias.items() if at == str(v.version)),
                created=v.creation_timestamp / 1000,
                tags=v.tags,
            )
            for v in versions
        ]

    def tags(self, version: str) -> Mapping[str, str]:
        """A release's tags. Raises NoRelease."""
        tags: Mapping[str, str] = self.router_version(version).tags
        return tags

    def router_version(self, version: str) -> ModelVersion:
        """Raises NoRelease, naming the releases there are."""
        try:
            return self.client.get_model_version(ROUTER, version)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise RegistryError(f"MLflow at {self.address}: {error}") from error
            known = ", ".join(row.version for row in self.releases()) or "none yet"
            raise NoRelease(f"no release {version!r} in MLflow; known: {known}") from error

    def router_tags(self) -> Mapping[str, str]:
        """The tags of all releases together; none before the first one. Raises RegistryError."""
        try:
            tags: Mapping[str, str] = self.client.get_registered_model(ROUTER).tags
        except MlflowException as error:
            if error.error_code in ABSENT:
                return {}
            raise RegistryError(f"MLflow at {self.address}: {error}") from error
        return tags

    def find(self, name: str, digest: str, flow_run: str | None = None) -> ModelVersion | None:
        """The newest version of a registered model with these files (of that flow run)."""
        versions = self.client.search_model_versions(
            f"name = '{name}'", max_results=1000, order_by=["version_number DESC"]
        )
        for version in versions:
            same_run = flow_run is None or version.tags.get("flow_run") == flow_run
            if version.tags.get("digest") == digest and same_run:
                return version
        return None

    def experiment(self) -> str:
        """The id of the experiment that every run belongs to; made where there is none."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return str(experiment.experiment_id)
        local = self.uri.startswith("sqlite")
        location = (self.home / "artifacts").as_uri() if local else None
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))
