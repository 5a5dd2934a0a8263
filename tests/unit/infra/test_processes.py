"""Which process is which."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from infra import processes
from infra.processes import ProcessIdentity, end


def sleeper(code: str = "import time; time.sleep(300)") -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_process_is_itself_and_survives_writing_down() -> None:
    identity = ProcessIdentity.of(os.getpid())
    assert identity.process() == psutil.Process()
    assert ProcessIdentity.read(identity.dump()) == identity


@pytest.mark.parametrize("change", [{"started": 1.0}, {"boot": "another boot"}, {"pid": 2**22 + 1}])
def test_another_start_or_boot_is_another_process(change: dict[str, object]) -> None:
    row = {**ProcessIdentity.of(os.getpid()).dump(), **change}
    assert ProcessIdentity.read(row).process() is None


@pytest.mark.parametrize("pid", [0, -1])
def test_no_group_of_processes_is_taken_for_one(pid: int) -> None:
    assert ProcessIdentity(pid, 0.0, processes.boot_id()).process() is None


def test_a_clock_that_jumps_changes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of its boot moves with the clock; ticks since the boot do not."""
    identity = ProcessIdentity.of(os.getpid())
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: 0.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert ProcessIdentity.of(os.getpid()) == identity


def test_a_zombie_is_dead() -> None:
    child = sleeper("")
    identity = ProcessIdentity.of(child.pid)
    deadline = time.monotonic() + 20
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert identity.process() is None
    child.communicate()


def test_what_does_not_stop_is_killed() -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"
    )
    child = sleeper(f"{deaf}; time.sleep(300)")
    assert child.stdout is not None
    assert child.stdout.readline() == "1\n"
    identity = ProcessIdentity.of(child.pid)

    def members() -> list[psutil.Process]:
        process = identity.process()
        return [process] if process is not None else []

    assert end(members, seconds=0.2) == 1
    assert identity.process() is None
    child.communicate()
