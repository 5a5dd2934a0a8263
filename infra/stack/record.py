"""What a stack writes down of itself: commands join it by that, and the next stack cleans up by it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from infra.processes import ProcessIdentity, family

STATE_FILE: Final = "stack.json"
LOCK_FILE: Final = "stack.lock"


@dataclass(frozen=True)
class StackRecord:
    """A stack. token: in the environment of all that it starts. environment: settings that lead
    commands to it. children: part → its first process."""

    supervisor: ProcessIdentity
    token: str
    environment: Mapping[str, str] = field(default_factory=dict)
    children: Mapping[str, ProcessIdentity] = field(default_factory=dict)

    def members(self) -> list[psutil.Process]:
        """Every process of its parts that lives."""
        return family(self.children.values(), self.token)

    def write(self, home: Path) -> None:
        """Whole or not at all, for this user's eyes."""
        record = {
            **self.supervisor.dump(),
            "token": self.token,
            "environment": dict(self.environment),
            "children": {name: child.dump() for name, child in self.children.items()},
        }
        part = home / f"{STATE_FILE}.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
            json.dump(record, handle, indent=2)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(home / STATE_FILE)


def read_record(home: Path) -> StackRecord | None:
    """The last stack's record, whether it runs or was killed; None where there is none to read."""
    try:
        row: dict[str, Any] = json.loads((home / STATE_FILE).read_text())
        return StackRecord(
            ProcessIdentity.read(row),
            str(row["token"]),
            dict(row["environment"]),
            {name: ProcessIdentity.read(child) for name, child in row["children"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def running_stack(home: Path) -> StackRecord | None:
    """The stack that runs on a home, its supervisor included; None where none does."""
    record = read_record(home)
    return record if record is not None and record.supervisor.process() is not None else None


def survivors(home: Path) -> list[psutil.Process]:
    """Processes of a stack whose supervisor is dead."""
    record = read_record(home)
    if record is None or record.supervisor.process() is not None:
        return []
    return record.members()
