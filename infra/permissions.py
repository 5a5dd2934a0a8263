"""What lies in the home folder is its user's alone: folders 0700, files 0600."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from models.errors import SettingsError

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def private_umask() -> None:
    """Whatever this process and its children write from now on is this user's alone."""
    os.umask(OTHERS)


def close_home(home: Path) -> None:
    """Close a home, and all that lies in it, to other users; makes it where there is none, and sets
    the umask.

    Raises SettingsError where the folder is not this user's to close.
    """
    private_umask()
    home.mkdir(parents=True, exist_ok=True)
    status = home.stat()
    check_own(home, status)
    if status.st_uid == os.geteuid():
        home.chmod(0o700)  # first: from here on nobody passes through it
    else:
        print(f"mixllm: {home} belongs to root, who alone can close it to others", file=sys.stderr)
    for path in inside(home):
        close(path)


def check_own(home: Path, status: os.stat_result) -> None:
    """Raises SettingsError for a folder that holds other things too, or that another user owns."""
    if home in (Path("/"), Path.home()) or status.st_mode & stat.S_ISVTX:
        raise SettingsError(
            f"MIXLLM_HOME: {home} would be closed to other users with all that lies in it; "
            "choose a folder inside it"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise SettingsError(
            f"MIXLLM_HOME: {home} belongs to another user (uid {status.st_uid}); "
            "choose a folder of yours"
        )


def inside(home: Path) -> Iterator[Path]:
    """Everything in a folder; links are not followed."""
    for folder, folders, files in os.walk(home):
        for name in (*folders, *files):
            yield Path(folder, name)


def close(path: Path) -> None:
    """Take a file's or folder's permissions from everybody but its owner."""
    try:
        status = path.lstat()
        if status.st_mode & OTHERS and not stat.S_ISLNK(status.st_mode):
            path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)
    except (FileNotFoundError, PermissionError):
        return  # it went meanwhile, or is its owner's to close
