"""The command line's entry."""

from __future__ import annotations

import sys
import warnings

from infra.addresses import bypass_proxy
from infra.permissions import private_umask
from mixllm.app import app
from mixllm.terminal import print_plain, tolerate_odd_text
from models.errors import (
    MixLLMError,
)

# Importing a module of commands adds them to the app, in this order.
# isort: off
from mixllm.commands import (  # noqa: F401
    stack,
    training,
    evaluation,
    releases,
    candidates,
    service,
    policy,
    drift,
    keys,
    dead_letters,
    experiments,
)
# isort: on


def main() -> None:
    """Run a command; what a user can mend is one line on standard error and exit code 2."""
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
