"""Which processes are ours. A pid repeats, in containers at every start: a process is known by its
pid, its start and the machine's boot, and what a stack started also by a token in its environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil

# Every process of a stack inherits it; not a setting, so not MIXLLM_*.
TOKEN_VARIABLE: Final = "STACK_OF_MIXLLM"
STOP_SECONDS: Final = 15.0
# Processes that start while the others are stopped are looked for so often.
ROUNDS: Final = 3


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, and no other that has its pid later.

    started: ticks between the boot and its start, which no change of the clock moves; seconds since
        the epoch where the system does not tell ticks.
    boot: the boot's id; empty where the system has none.
    """

    pid: int
    started: float
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Raises psutil.NoSuchProcess."""
        return cls(pid, start_of(pid), boot_id())

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> ProcessIdentity:
        """From ``dump``. Raises KeyError, TypeError, ValueError."""
        return cls(int(row["pid"]), float(row["started"]), str(row["boot"]))

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    def process(self) -> psutil.Process | None:
        """The process, while it lives."""
        if self.pid <= 0 or self.boot != boot_id():
            return None
        try:
            process = psutil.Process(self.pid)
            same = start_of(self.pid) == self.started
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def start_of(pid: int) -> float:
    """When a process started. Raises psutil.NoSuchProcess."""
    try:
        # The name, in parentheses, may hold anything; the start is the 20th field after it.
        return float(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return float(psutil.Process(pid).create_time())


@cache
def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def family(leaders: Iterable[ProcessIdentity], token: str | None = None) -> list[psutil.Process]:
    """The leaders that live, their descendants, and whatever else has the token, if one is given;
    never this process or one that it descends from."""
    members: set[psutil.Process] = set()
    for leader in leaders:
        process = leader.process()
        if process is not None:
            members |= {process, *descendants(process)}
    if token is not None:
        members |= {process for process in psutil.process_iter() if token_of(process) == token}
    return list(members - lineage())


def descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def token_of(process: psutil.Process) -> str | None:
    """The token in a process's environment; None where there is none or we may not look."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        token: str | None = process.environ().get(TOKEN_VARIABLE)
        return token
    except (psutil.Error, OSError):
        return None


def lineage() -> set[psutil.Process]:
    """This process and its ancestors."""
    own = psutil.Process(os.getpid())
    try:
        return {own, *own.parents()}
    except psutil.Error:
        return {own}


def end(members: Callable[[], list[psutil.Process]], seconds: float = STOP_SECONDS) -> int:
    """Ask the processes to stop, kill those that do not in time; returns how many there were.

    members: who lives; asked again, since a supervisor restarts what ends.
    """
    ended: set[int] = set()
    for _ in range(ROUNDS):
        living = members()
        if not living:
            break
        ended |= {process.pid for process in living}
        for process in living:
            signal_to(process.terminate)
        _, left = psutil.wait_procs(living, timeout=seconds)
        for process in left:
            signal_to(process.kill)
        psutil.wait_procs(left, timeout=seconds)
    return len(ended)


def signal_to(send: Callable[[], None]) -> None:
    """Send a signal to a process that may be gone by now; psutil sends none to another of its pid."""
    with contextlib.suppress(psutil.NoSuchProcess):
        send()
