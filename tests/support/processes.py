"""Service processes for tests, over HTTP on loopback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.addresses import free_loopback_port

free_port = free_loopback_port

GUARD = Path(__file__).parents[1] / "integration" / "import_guard"


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except (httpx.HTTPError, OSError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"still not so after {seconds} s")


def start(home: Path, database: str, log: Path, **settings: str) -> tuple[Any, int]:
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(GUARD),
        "MIXLLM_HOME": str(home),
        "MIXLLM_DATABASE_URL": database,
        "MIXLLM_PORT": str(port),
        "MIXLLM_POLL_SECONDS": "0.5",
        "MIXLLM_FLUSH_SECONDS": "0.1",
        **settings,
    }
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", "serving.service:MixLLM"],
            env=environment,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, port


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything it started, at once."""
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)
