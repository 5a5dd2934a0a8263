"""The folder of the embedded Postgres's Unix socket: its path must be short and plain."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import stat
import tempfile
from pathlib import Path
from typing import Final

from infra.postgres_account import give, name_of
from models.errors import StoreError

PORT: Final = 5432
# Of a Unix socket's address, its final zero included, on the stricter of Linux and macOS.
ADDRESS_BYTES: Final = 104
# What neither Postgres, libpq nor SQLAlchemy takes for a separator in a list of hosts.
PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9/_.+-]+")


def socket_folder(data: Path, account: pwd.struct_passwd | None) -> str:
    """Where the server listens: the data's folder, or a short one of this user's where that path is too
    long or not plain. Raises StoreError."""
    if fits(data):
        return name_of(data, account)
    owner = os.getuid() if account is None else account.pw_uid
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    roots = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")
    for root in filter(None, roots if account is None else roots[1:]):
        folder = Path(root) / f"mixllm-{owner}-{name}"
        if not fits(folder) or not Path(root).is_dir():
            continue
        folder.mkdir(mode=0o700, exist_ok=True)
        give(folder, account)
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != owner:
            raise StoreError(f"{folder} belongs to somebody else; remove it")
        return str(folder)
    raise StoreError("there is no folder for Postgres's socket: set TMPDIR to a short path")


def fits(folder: Path) -> bool:
    """Whether a socket's address in a folder is short and plain enough."""
    address = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(address) < ADDRESS_BYTES and PLAIN_PATH.fullmatch(str(folder)) is not None


def quoted(path: str) -> str:
    """One element of Postgres's list of folders."""
    return '"' + path.replace('"', '""') + '"'
