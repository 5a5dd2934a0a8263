"""The Postgres server that this machine runs by itself, its data in ``home / postgres``.

Processes that use it share a lock; the last one to leave stops it, unless a stack whose supervisor
was killed still runs on the home. Paths travel as arguments and in the environment, never through a
shell, and a process is stopped only if it is a Postgres that works in this folder.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy.engine import URL

from infra.file_lock import FileLock
from infra.home import ready_home
from infra.postgres_account import (
    HERE,
    as_account,
    database_account,
    give,
    installed,
    let_through,
    name_of,
)
from infra.postgres_socket import PORT, quoted, socket_folder
from infra.stack.record import survivors
from models.errors import StoreError

FOLDER: Final = "postgres"
PID_FILE: Final = "postmaster.pid"
ROLE: Final = "postgres"
START_SECONDS: Final = 120
STOP_SECONDS: Final = 60


@dataclass(frozen=True)
class Postmaster:
    """The server's first process, as its file tells. ready: whether it takes connections."""

    process: psutil.Process
    socket_folder: str
    ready: bool


class EmbeddedPostgres:
    """The server of one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / FOLDER
        # One at a time starts or stops it.
        self._changing = FileLock(home / f"{FOLDER}.lock")
        # Shared by all who need it.
        self._using = FileLock(home / f"{FOLDER}.users")

    def join(self) -> None:
        """Start the server unless it runs, and keep it up until this process leaves.

        Raises StoreError, SettingsError.
        """
        ready_home(self.home)
        self._changing.take(wait=True)
        try:
            self._using.take(shared=True, wait=True)
            if self._running() is None:
                self._start()
        except BaseException:
            self._using.release()
            raise
        finally:
            self._changing.release()

    def leave(self) -> None:
        """Stop the server, unless somebody else needs it."""
        if not self._using.held:
            return
        self._changing.take(wait=True)
        try:
            if self._using.take() and not survivors(self.home):
                self._stop()
        finally:
            self._using.release()
            self._changing.release()

    def is_running(self) -> bool:
        return self.postmaster() is not None

    def get_pid(self) -> int:
        """The server's process id. Raises StoreError."""
        return int(self._required().process.pid)

    def url(self) -> URL:
        """Where the server listens. Raises StoreError."""
        socket_folder = self._required().socket_folder
        query = {"host": str(self.folder) if socket_folder == HERE else socket_folder}
        return URL.create("postgresql", username=ROLE, database=ROLE, query=query)

    def _required(self) -> Postmaster:
        postmaster = self.postmaster()
        if postmaster is None:
            raise StoreError(f"the embedded Postgres in {self.folder} does not run")
        return postmaster

    def postmaster(self) -> Postmaster | None:
        """The living server; None where its file is missing, torn or names another process."""
        try:
            lines = (self.folder / PID_FILE).read_text(errors="surrogateescape").splitlines()
            process = psutil.Process(int(lines[0]))
            ours = process.name().startswith("postgres") and works_in(process, self.folder)
        except (OSError, ValueError, IndexError, psutil.Error):
            return None
        if not ours:
            return None
        socket_folder = lines[4].strip() if len(lines) > 4 else ""
        return Postmaster(process, socket_folder, len(lines) > 7 and lines[7].strip() == "ready")

    def _running(self) -> Postmaster | None:
        """The server once it is ready; None where none lives. Raises StoreError."""
        deadline = time.monotonic() + START_SECONDS
        while (postmaster := self.postmaster()) is not None and not postmaster.ready:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the embedded Postgres (process {postmaster.process.pid}) is not ready after "
                    f"{START_SECONDS} s; {self._log} says why"
                )
            time.sleep(0.1)
        return postmaster

    # --- starting and stopping -----------------------------------------------------------------

    def _start(self) -> None:
        """Start the server, on new data where there is none. Raises StoreError."""
        programs, version = installed()
        account = database_account()
        let_through(programs, account)
        if not self.folder.is_dir() or not any(self.folder.iterdir()):
            self._initialise(programs, account)
        self._check_version(version)
        give(self.folder, account)
        # It names a process that is dead, or another that has its pid now: Postgres would wait for that.
        (self.folder / PID_FILE).unlink(missing_ok=True)
        sockets = socket_folder(self.folder, account)
        data = name_of(self.folder, account)
        options = ["-D", data, "-h", "", "-k", quoted(sockets), "-p", str(PORT)]
        wait = ["start", "-w", "-t", str(START_SECONDS)]
        # A shell reads the options: joined for it.
        command = [programs / "pg_ctl", *wait, "-o", shlex.join(options)]
        with self._log.open("ab") as log:
            self._call(command, self.folder, account, stdout=log, stderr=subprocess.STDOUT)
        self._required()

    def _initialise(self, programs: Path, account: pwd.struct_passwd | None) -> None:
        """Make the data aside and move it into place: what is there is whole."""
        part = self.folder.with_name(f"{FOLDER}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        give(part, account)
        # Nothing of the machine's locale, which may not be installed.
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._call(
            [programs / "initdb", "--auth=trust", "--encoding=utf8", *locale, "-U", ROLE, "-D",
             name_of(part, account)],
            part,
            account,
        )  # fmt: skip
        if self.folder.is_dir():
            self.folder.rmdir()
        part.rename(self.folder)

    def _check_version(self, version: int) -> None:
        try:
            made = int((self.folder / "PG_VERSION").read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.folder} holds no Postgres data; move it away") from error
        if made != version:
            raise StoreError(
                f"{self.folder} was made by Postgres {made}, this is Postgres {version}: "
                "dump it with the old version and restore it with the new one"
            )

    def _stop(self) -> None:
        """Stop the server, if it runs: politely, then at once. Raises StoreError."""
        postmaster = self.postmaster()
        if postmaster is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT):  # its fast and its immediate shutdown
            with contextlib.suppress(psutil.NoSuchProcess):
                postmaster.process.send_signal(number)
            _, left = psutil.wait_procs([postmaster.process], timeout=STOP_SECONDS)
            if not left:
                return
        raise StoreError(f"the embedded Postgres (process {postmaster.process.pid}) does not stop")

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _call(
        self,
        command: list[Any],
        folder: Path,
        account: pwd.struct_passwd | None,
        **streams: Any,
    ) -> None:
        """Run one of Postgres's programs in its data's folder as the account. Raises StoreError with
        what it said."""
        with tempfile.TemporaryFile() as said:  # a pipe would stay open in the server it starts
            streams = streams or {"stdout": said, "stderr": subprocess.STDOUT}
            done = subprocess.run(
                [str(part) for part in command],
                env={**os.environ, "PGDATA": name_of(folder, account), "LC_ALL": "C"},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                check=False,
                **as_account(account),
                **streams,
            )
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
        if done.returncode:
            why = text.splitlines()[-1] if text else f"{self._log} says why"
            name = Path(command[0]).name
            raise StoreError(f"the embedded Postgres: {name} ended with {done.returncode}: {why}")


def works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether a process's working folder is this one, as every process of Postgres's is."""
    try:
        return os.path.samestat(os.stat(f"/proc/{process.pid}/cwd"), folder.stat())
    except FileNotFoundError:  # no /proc
        return Path(process.cwd()) == folder


_servers: dict[Path, EmbeddedPostgres] = {}
_lock = threading.Lock()


def embedded_postgres(home: Path) -> EmbeddedPostgres:
    """The embedded Postgres of a home, running; this process keeps it up until it leaves or ends.

    Raises StoreError, SettingsError.
    """
    with _lock:
        server = _servers.get(home)
        if server is None or not server.is_running():  # or it was killed since
            server = server or EmbeddedPostgres(home)
            server.join()
            if home not in _servers:
                atexit.register(leave_embedded_postgres, server)
            _servers[home] = server
        return server


def leave_embedded_postgres(server: EmbeddedPostgres) -> None:
    """Leave the server; the last process that does so stops it."""
    with _lock:
        _servers.pop(server.home, None)
        server.leave()
