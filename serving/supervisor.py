"""BentoML's supervisor, out of others' reach, and its processes' metrics, apart from other services'."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, Final

from bentoml._internal.utils import circus

# Of a Unix socket's address, on the stricter of Linux and macOS.
ADDRESS_BYTES: Final = 103


def listen_privately() -> None:
    """Let the supervisor take its commands through a socket in a folder of this user's alone.

    By itself it listens on two ports of loopback, and whoever connects may stop the service or have
    it run a program. ``bentoml serve`` reads the function anew whenever it starts a supervisor.
    """
    if not callable(getattr(circus, "create_standalone_arbiter", None)):
        raise RuntimeError("this version of BentoML starts its supervisor in another way")
    circus.create_standalone_arbiter = private_arbiter


def private_arbiter(watchers: list[Any], *, threaded: bool = False, **options: Any) -> Any:
    """What ``create_standalone_arbiter`` makes, on other endpoints."""
    folder = private_folder()
    metrics = os.path.join(folder, "metrics")
    os.mkdir(metrics)
    for watcher in watchers:
        # By itself BentoML keeps the processes' metrics in one folder per user, and every service
        # that starts empties it.
        watcher.env = {**(watcher.env or {}), "PROMETHEUS_MULTIPROC_DIR": metrics}
    kind = circus.ThreadedArbiter if threaded else circus.Arbiter
    arbiter = kind(
        watchers,
        endpoint=f"ipc://{folder}/commands",
        pubsub_endpoint=f"ipc://{folder}/events",
        check_delay=options.pop("check_delay", 10),
        **options,
    )
    arbiter.exit_stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return arbiter


def private_folder() -> str:
    """A new folder, 0700, with a path short enough for a socket's address."""
    folder = tempfile.mkdtemp(prefix="mixllm-")
    if len(os.fsencode(f"{folder}/commands")) < ADDRESS_BYTES:
        return folder
    os.rmdir(folder)
    return tempfile.mkdtemp(prefix="mixllm-", dir="/tmp")
