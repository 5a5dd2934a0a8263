"""The command line's entry.

Modules of commands import only what ``--help`` needs; each command imports the rest when it runs.
"""

from __future__ import annotations

import sys
import warnings

from infra.permissions import private_umask
from infra.proxy_bypass import bypass_proxy
from mixllm.app import app
from mixllm.terminal import print_plain, tolerate_odd_text
from models.errors import MixLLMError

# Importing a module of commands adds them to the app, in this order.
# isort: off
from mixllm.commands import (  # noqa: F401
    stack,
    training,
    evaluation,
    releases,
    candidates,
    service,
    keys,
    policy,
    drift,
    storage,
    experiments,
    fleet,
)
# isort: on

__all__ = ["app", "main"]


def main() -> None:
    """Run a command; an error that the user can fix is one line on standard error and exit code 2."""
    tolerate_odd_text()
    private_umask()  # what commands keep in home is this user's alone
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    bypass_proxy()
    try:
        app()
    except MixLLMError as error:
        print_plain(f"mixllm: {error}", sys.stderr)
        sys.exit(2)
