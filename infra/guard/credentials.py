"""The login of the local stack: made once per home, kept there, asked for by every part."""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from infra.permissions import close_home
from models.errors import SettingsError

FILE: Final = "credentials.json"
USER: Final = "mixllm"


@dataclass(frozen=True)
class Credentials:
    """Who may read and change what the stack's parts hold."""

    user: str
    password: str

    @property
    def pair(self) -> str:
        """As Prefect takes it."""
        return f"{self.user}:{self.password}"

    def fit(self, header: bytes) -> bool:
        """Whether an ``Authorization`` header brings them. Its time says nothing of them."""
        scheme, _, encoded = header.partition(b" ")
        expected = base64.b64encode(self.pair.encode())
        return scheme.lower() == b"basic" and hmac.compare_digest(encoded.strip(), expected)

    @property
    def of_mlflow(self) -> dict[str, str]:
        """What MLflow's client reads. A token for another server would go first, so it is emptied."""
        return {
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_TRACKING_TOKEN": "",
        }

    @property
    def of_prefect(self) -> dict[str, str]:
        """What Prefect's client reads."""
        return {"PREFECT_API_AUTH_STRING": self.pair}


def read_credentials(home: Path) -> Credentials:
    """The home's credentials. Raises SettingsError."""
    path = home / FILE
    try:
        made = Credentials(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist; start the stack: mixllm up") from error
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); delete it for a new one") from error
    if not (isinstance(made.user, str) and isinstance(made.password, str) and made.password):
        raise SettingsError(f"{path} has no user and password; delete it for a new one")
    return made


def ensure_credentials(home: Path) -> Credentials:
    """The home's credentials, made where there are none. Raises SettingsError."""
    close_home(home)
    made = Credentials(USER, secrets.token_urlsafe(24))
    try:
        handle = os.open(home / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_credentials(home)
    with open(handle, "w") as file:
        json.dump(asdict(made), file)
    return made
