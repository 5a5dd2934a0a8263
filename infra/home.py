"""The home folder: made before anything is kept in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from models.errors import SettingsError


def ready_home(home: Path) -> Path:
    """Make the home folder where there is none, and see that it can be written to; returns it.

    Raises SettingsError.
    """
    if not str(home).isprintable():
        raise SettingsError(
            f"MIXLLM_HOME: {str(home)!r} holds characters that cannot be printed; name another folder"
        )
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (home, *home.parents) if path.exists())
        raise SettingsError(
            f"MIXLLM_HOME: {file} is a file, not a folder; name a folder"
        ) from error
    except OSError as error:
        raise SettingsError(
            f"MIXLLM_HOME: {home} cannot be written to ({error.strerror}); "
            "make it writable, or name another folder"
        ) from error
    return home
