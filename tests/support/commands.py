"""Commands as people run them: processes, or in this one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

MIXLLM = [sys.executable, "-m", "mixllm"]


def run(*arguments: str | Path, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MIXLLM, *map(str, arguments)],
        env={**os.environ, "MIXLLM_HOME": str(home), **settings},
        capture_output=True,
        text=True,
        timeout=280,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
