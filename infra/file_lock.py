"""Locks on files of this machine. The system drops a process's locks when it dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from models.errors import SettingsError


class FileLock:
    """A lock on a file, shared with other holders or exclusive.

    Not inherited by the programs that this process starts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        return self._handle is not None

    def take(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Take the lock, or change the one that is held; whether it is ours now. A change that fails
        drops what was held. Raises SettingsError."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            if self._handle is None:
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._handle, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        except OSError as error:
            self.release()
            raise SettingsError(f"{self.path} cannot be locked: {error.strerror}") from error
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
