"""Settings: read once from ``MIXLLM_*`` variables into one frozen object; a typo is an error."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.addresses import http_url, plain_host, sqlite_url
from models.decision.exploration import Exploration
from models.errors import SettingsError, nearest

PREFIX = "MIXLLM_"
HOST = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:]+")
ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class Settings(BaseSettings):
    """Every setting, with its default. ``MIXLLM_HOME`` sets ``home``, and so on."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(
        default_factory=lambda: Path.home() / ".mixllm",
        description="Folder of everything kept on this machine.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="A Postgres server; the embedded one when not set."
    )
    mlflow_uri: str | None = Field(
        default=None, description="An MLflow server; a SQLite file in home when not set."
    )
    prefect_api_url: str | None = Field(
        default=None, description="A Prefect server; a temporary one when not set."
    )
    host: str = Field(default="127.0.0.1", description="Address the service binds to.")
    port: int = Field(default=3000, ge=1, le=65535, description="Port of the service.")
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="Port of MLflow's UI.")
    prefect_port: int = Field(default=4200, ge=1, le=65535, description="Port of Prefect's UI.")
    evidently_port: int = Field(
        default=8000, ge=1, le=65535, description="Port of Evidently's pages."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Key that clients must send; needed to bind beyond loopback."
    )
    allowed_hosts: str = Field(
        default="",
        description="Names under which a proxy reaches the servers, besides this machine's own; "
        "comma-separated, *.domain for all below one, * for any.",
    )
    allowed_origins: str = Field(
        default="",
        description="Origins whose pages may use the service, as https://app.example; "
        "comma-separated, * for any (only with MIXLLM_API_KEY).",
    )
    store_queries: Literal["full", "hash", "none"] = Field(
        default="hash", description="What of a query's text a decision row keeps."
    )
    poll_seconds: float = Field(
        default=5.0, gt=0, description="How often the service looks for a new champion."
    )
    policy_seconds: float = Field(
        default=10.0, gt=0, description="How often the service looks for a new policy state."
    )
    feedback_days: float = Field(
        default=30.0, gt=0, description="How long after its decision feedback is taken."
    )
    exploration: Exploration | None = Field(
        default=None, description="How choices are drawn unless a key or a request says otherwise."
    )
    exploration_usd_per_day: float | None = Field(
        default=None,
        ge=0,
        description="What a process may spend a day, by prediction, beyond the best choices.",
    )
    data: Path | None = Field(
        default=None,
        description="The evaluation set that scheduled flows train on and releases are judged by.",
    )
    alerts: Path | None = Field(
        default=None, description="YAML: what is done about each alert; docs/drift.md lists them."
    )
    drift_reference: int = Field(
        default=1000, ge=100, description="Decisions that a release is held against: its first."
    )
    drift_window: int = Field(
        default=500, ge=10, description="Decisions in which drift is looked for, at least."
    )
    alert_webhook: SecretStr | None = Field(
        default=None, description="An address that alerts are posted to, as JSON."
    )
    alert_webhook_secret: SecretStr | None = Field(
        default=None, description="Signs what is posted: x-mixllm-signature, HMAC-SHA256."
    )
    smtp_url: SecretStr | None = Field(
        default=None, description="Mail server: smtp://user:password@host:port, smtps:// for TLS."
    )
    alert_from: str = Field(default="mixllm@localhost", description="Sender of alert mails.")
    alert_to: str | None = Field(
        default=None, description="Who gets alert mails; several, separated by commas."
    )
    shadow: float = Field(
        default=0.1, ge=0, le=1, description="Share of queries the challenger decides in shadow."
    )
    keep_days: float = Field(
        default=90.0, gt=0, description="How long decisions without votes and old states are kept."
    )
    keep_vote_days: float = Field(
        default=365.0, gt=0, description="How long decisions with votes are kept."
    )
    flush_seconds: float = Field(
        default=0.5, gt=0, description="How often decisions are written to Postgres."
    )
    tagger_url: str | None = Field(
        default=None, description="The llm tagger's OpenAI-compatible endpoint, /v1 included."
    )
    tagger_model: str | None = Field(
        default=None, description="The llm tagger's model, or the instag tagger's folder or name."
    )
    tagger_key: SecretStr | None = Field(default=None, description="The llm tagger's API key.")
    tagger_input_price: float | None = Field(
        default=None, ge=0, description="USD per million prompt tokens of the llm tagger."
    )
    tagger_output_price: float | None = Field(
        default=None, ge=0, description="USD per million response tokens of the llm tagger."
    )
    tagger_concurrency: int = Field(
        default=8, ge=1, description="Requests of the llm tagger at a time."
    )
    catalog: Path | None = Field(
        default=None, description="A catalog whose upstreams are used in place of the release's."
    )
    switching_cost: float = Field(
        default=0.0,
        ge=0,
        description="Score by which another LLM must win to take a conversation over; 0: no affinity.",
    )
    max_body_bytes: int = Field(
        default=20 * 2**20, ge=1024, description="Largest request body that is read."
    )
    client_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which a client that takes nothing of its stream is cut off.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        description="Service processes; each knows only its own requests in flight.",
    )
    log_format: Literal["json", "text"] = Field(
        default="json", description="Form of the service's log lines."
    )
    encoder_threads: int = Field(
        default=1, ge=1, description="ONNX Runtime threads for one query in the service."
    )

    @field_validator("host")
    @classmethod
    def _plain_host(cls, host: str) -> str:
        return plain_host(host)

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        for name in split(value):
            if not HOST.fullmatch(name):
                raise ValueError(f"{name!r} is not a host name; leave scheme, port and path out")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for origin in split(value):
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin; write scheme://host or scheme://host:port"
                )
        return value

    @property
    def hosts(self) -> tuple[str, ...]:
        """The allowed hosts, lower case."""
        return split(self.allowed_hosts)

    @property
    def origins(self) -> tuple[str, ...]:
        """The allowed origins, lower case."""
        return split(self.allowed_origins)

    @field_validator("api_key")
    @classmethod
    def _api_key_can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        # An empty key would let everybody in with all scopes.
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("give a key of visible ASCII characters without spaces, or unset it")
        return value

    @property
    def registry_uri(self) -> str:
        return self.mlflow_uri or sqlite_url(self.home / "mlflow.db")

    @property
    def service_url(self) -> str:
        """Where this machine's clients reach the service."""
        return http_url(self.host, self.port)

    @property
    def key_header(self) -> dict[str, str]:
        """What a client of the service sends."""
        return {"x-api-key": self.api_key.get_secret_value()} if self.api_key else {}

    def database(self) -> str | None:
        """The configured database's address, or None for the embedded one."""
        return self.database_url.get_secret_value() if self.database_url else None


def split(value: str) -> tuple[str, ...]:
    """The parts of a comma-separated value, lower case."""
    return tuple(part.strip().lower() for part in value.split(",") if part.strip())


def read_settings() -> Settings:
    """Settings from the environment. Raises SettingsError naming the variable."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(f"unknown setting {name}; {nearest(name, known)}")
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{PREFIX}{str(first['loc'][0]).upper()}"
        secret = "Secret" in str(Settings.model_fields[str(first["loc"][0])].annotation)
        given = "" if secret else f" (got {first['input']!r})"
        raise SettingsError(
            f"{name}: {first['msg'].removeprefix('Value error, ')}{given}"
        ) from None
    except RuntimeError as error:  # a user without a home folder, as in some containers
        raise SettingsError(f"MIXLLM_HOME is not set, and there is no default: {error}") from error
    return settings.model_copy(update={"home": resolved(settings.home)})


def resolved(home: Path) -> Path:
    """The home folder's absolute path, without symlinks. Raises SettingsError."""
    if not os.environ.get("MIXLLM_HOME", "unset").strip():
        raise SettingsError("MIXLLM_HOME is empty; name a folder, or unset it for ~/.mixllm")
    try:
        return home.expanduser().resolve()
    except (RuntimeError, OSError) as error:  # no such user, or symlinks in a circle
        raise SettingsError(f"MIXLLM_HOME: {home} leads nowhere: {error}") from error
