import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

JOIN = """
import sys, time
from pathlib import Path
from infra.database import embedded_postgres, leave_embedded_postgres
server = embedded_postgres(Path(sys.argv[1]))
print(server.get_pid(), flush=True)
if sys.argv[2] == "leave":
    leave_embedded_postgres(server)
else:
    time.sleep(60)
"""


def join(home: Path, then: str) -> tuple[subprocess.Popen[str], int]:
    """A process that joins the embedded server of a home, and the server's process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOIN, str(home), then], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    server = int(process.stdout.readline())
    return process, server


def ends(pid: int) -> bool:
    """Whether a process is gone within ten seconds, or waits only to be reaped."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_killed_process_does_not_keep_the_server_up_for_ever(tmp_path: Path) -> None:
    killed, first = join(tmp_path, "stay")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert psutil.pid_exists(first), "the server itself outlives who joined it"
    last, second = join(tmp_path, "leave")
    last.communicate(timeout=30)
    assert second == first
    assert ends(first)


def test_a_living_process_keeps_the_server(tmp_path: Path) -> None:
    staying, first = join(tmp_path, "stay")
    leaving, second = join(tmp_path, "leave")
    leaving.communicate(timeout=30)
    assert second == first
    assert psutil.pid_exists(first)
    staying.terminate()
    staying.communicate()
    last, _ = join(tmp_path, "leave")
    last.communicate(timeout=30)
    assert ends(first)
