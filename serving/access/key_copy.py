"""The copy of the keys on this machine, for a service that starts while Postgres is away."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitoring.store.keys import ApiKey, first_fault

FILE: Final = "keys.json"


class KeyCopy(BaseModel):
    """What a service last read of the keys, hashes only.

    keys_required: whether a key is needed.
    unusable: SHA-256 of a key whose row has odd content, and what is odd.
    month, spent: USD by key id since that month began; None where it was not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    keys_required: bool = Field(strict=True)
    keys: tuple[ApiKey, ...]
    unusable: dict[str, str] = {}
    month: datetime | None = None
    spent: dict[str, float] = {}
    written_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def same(self, other: KeyCopy | None) -> bool:
        """Whether another copy says the same, whenever it was written."""
        return other is not None and self == other.model_copy(
            update={"written_at": self.written_at}
        )


class Unreadable(Exception):
    """The copy says nothing that can be relied on."""


def read_copy(path: Path) -> KeyCopy | None:
    """The copy; None where there is none. Raises Unreadable."""
    try:
        text = path.read_bytes()
        content: Any = json.loads(text)
        if isinstance(content, list):  # as earlier versions wrote it, once there had been a key
            text = json.dumps({"format": 2, "keys_required": True, "keys": content}).encode()
        return KeyCopy.model_validate_json(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(str(error.strerror)) from error
    except ValidationError as error:
        raise Unreadable(first_fault(error)) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from error


def write_copy(path: Path, copy: KeyCopy) -> None:
    """Write a copy that only this user may read, whole or not at all. Raises OSError.

    Several service processes share the file, so each writes to a name of its own first.
    """
    keys = [key.dump() for key in copy.keys]
    content = {**copy.model_dump(mode="json", exclude={"keys"}), "keys": keys}
    handle, part = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:  # mkstemp made it 0600
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
