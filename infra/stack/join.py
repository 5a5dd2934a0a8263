"""Joining the stack that runs: a command takes over its addresses and its logins."""

from __future__ import annotations

import os
from typing import Final

from infra.settings import Settings
from infra.stack.record import running_stack

# By what names a command takes over the login of the stack that runs, by server.
LOGINS: Final = {
    "MIXLLM_MLFLOW_URI": "MLFLOW_TRACKING_",
    "MIXLLM_PREFECT_API_URL": "PREFECT_API_AUTH_STRING",
}
JOINED: Final = ("MIXLLM_", *LOGINS.values())


def join_running_stack(settings: Settings) -> bool:
    """Point this process at the stack that runs, unless its environment says otherwise.

    Returns whether one runs.
    ."""
    record = running_stack(settings.home)
    if record is None:
        return False
    settings_there = {k: v for k, v in record.environment.items() if k.startswith("MIXLLM_")}
    for name, value in settings_there.items():
        os.environ.setdefault(name, value)
    # Credentials are for the stack's own servers; a login that the user set for others stays.
    for server, login in LOGINS.items():
        if os.environ.get(server) == settings_there.get(server):
            ours = {k: v for k, v in record.environment.items() if k.startswith(login)}
            os.environ.update(ours)
    return True
