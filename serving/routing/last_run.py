"""What a service keeps on disk so that a restart answers before it reaches the registry."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Final

from models.errors import ReleaseError

log = logging.getLogger("mixllm.champion")

CURRENT_FILE: Final = "current-release"
DISABLED_FILE: Final = "disabled.json"


class LastRun:
    """Two small files in the folder of the downloaded releases.

    folder: which has the releases under ``releases/VERSION``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def release(self) -> tuple[str, Path] | None:
        """Version and folder of the release that answered last. Raises ReleaseError, OSError."""
        marker = self._folder / CURRENT_FILE
        if not marker.is_file():
            return None
        version = marker.read_text()[:40].strip()
        if not version.isdecimal():
            raise ReleaseError(f"{marker}: {version!r} is not a version")
        return version, self._folder / "releases" / version

    def keep_release(self, version: str) -> None:
        self._write(CURRENT_FILE, version)

    def disabled(self) -> frozenset[str]:
        """The candidates that were disabled when this machine asked the registry last."""
        path = self._folder / DISABLED_FILE
        try:
            return frozenset(str(name) for name in json.loads(path.read_text()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            log.error("%s: %s", path, error)
        return frozenset()

    def keep_disabled(self, names: frozenset[str]) -> None:
        self._write(DISABLED_FILE, json.dumps(sorted(names)))

    def _write(self, name: str, text: str) -> None:
        """A file that a restart reads, whole or not at all."""
        written = self._folder / f".{name}-{os.getpid()}"
        try:
            written.write_text(text)
            os.replace(written, self._folder / name)
        except OSError as error:
            log.error("%s: %s; a restart reads what was there", self._folder / name, error.strerror)
