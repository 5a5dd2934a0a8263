"""Stacks of small parts, run by a process that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil

from infra.addresses import http_url
from infra.processes import TOKEN_VARIABLE
from infra.settings import Settings, read_settings
from infra.stack.parts import Part
from infra.stack.stack import Stack

# A server that starts a process of its own, which outlives it.
SERVER = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
address = ("127.0.0.1", int(sys.argv[1]))
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def server_part(port: int, name: str = "service") -> Part:
    url = http_url("127.0.0.1", port)
    return Part(name, [sys.executable, "-c", SERVER, str(port)], url, url)


def supervise(home: Path, database: str | None, *ports: int) -> subprocess.Popen[str]:
    """A process that runs a stack with a server on each port, once they answer."""
    environment = {**os.environ, "MIXLLM_HOME": str(home)}
    if database is not None:
        environment["MIXLLM_DATABASE_URL"] = database
    process = subprocess.Popen(
        [sys.executable, __file__, *map(str, ports)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """What a process says up to a line; or all of it, where it ends first."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == wanted:
            break
    return lines


def with_token(token: str) -> list[psutil.Process]:
    """Every process on the machine that has a stack's token."""
    members = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN_VARIABLE) == token:
                members.append(process)
        except psutil.Error:
            continue
    return members


def is_served(port: int) -> bool:
    try:
        return httpx.get(http_url("127.0.0.1", port), timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def main() -> None:
    ports = [int(port) for port in sys.argv[1:]]
    names = ["service", "mlflow", "prefect", "evidently"]

    def parts(settings: Settings, database: str) -> list[Part]:
        return [server_part(port, name) for port, name in zip(ports, names, strict=False)]

    stack = Stack(read_settings(), lambda line: print(line, flush=True))
    try:
        stack.start(parts)
        print("ready", flush=True)
        stack.watch(threading.Event())
    except Exception as error:  # noqa: BLE001 - printed for the test to read
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        stack.stop()


if __name__ == "__main__":
    main()
