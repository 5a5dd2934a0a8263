"""Where this machine has read evaluation sets, by their digests: a release is judged again by the set
that judged it before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

FILE: Final = "evaluation-sets.json"
# The oldest are forgotten.
KEPT: Final = 100


def recall(home: Path, digest: str) -> Path | None:
    """The folder that held the set when it was read last; it may have changed since."""
    folder = read(home).get(digest)
    return Path(folder) if folder is not None and Path(folder).is_dir() else None


def remember(home: Path, digest: str, folder: Path) -> None:
    """Note where a set lies."""
    places = read(home)
    places.pop(digest, None)
    places[digest] = str(folder.resolve())
    kept = dict(list(places.items())[-KEPT:])
    home.mkdir(parents=True, exist_ok=True)
    written = home / f".{FILE}-{os.getpid()}"
    written.touch(mode=0o600)
    written.write_text(json.dumps(kept, indent=1) + "\n")
    os.replace(written, home / FILE)


def read(home: Path) -> dict[str, str]:
    """Digest → folder; nothing where the file is not there or cannot be read."""
    try:
        places = json.loads((home / FILE).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(places, dict):
        return {}
    return {str(key): value for key, value in places.items() if isinstance(value, str)}
