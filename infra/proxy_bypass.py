"""No proxy for this machine's own servers. Imported before anything else, so it imports nothing."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

# Both spellings are read, by different libraries.
NO_PROXY: Final = ("no_proxy", "NO_PROXY")
OWN_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


def bypass_proxy(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let every library of this process, and of those it starts, reach loopback without a proxy."""
    named = [h.strip() for n in NO_PROXY for h in environment.get(n, "").split(",") if h.strip()]
    # The star is no proxy for anybody; some libraries know it only by itself.
    hosts = "*" if "*" in named else ",".join(dict.fromkeys([*named, *OWN_HOSTS]))
    for name in NO_PROXY:
        environment[name] = hosts
