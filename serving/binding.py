"""Who may reach the service: loopback alone, unless an API key is configured."""

from __future__ import annotations

import ipaddress
import os

import psutil

from infra.settings import Settings
from models.errors import SettingsError


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def check_host(host: str, settings: Settings) -> None:
    """Raises SettingsError for an address, or pages, open to anybody without a key."""
    if settings.api_key is None and "*" in settings.origins:
        raise SettingsError(
            "MIXLLM_ALLOWED_ORIGINS=* lets every web page use the service: set MIXLLM_API_KEY, "
            "or name the origins"
        )
    if settings.api_key is None and not is_loopback(host):
        raise SettingsError(
            f"refusing to listen on {host} without an API key: set MIXLLM_API_KEY, "
            "or listen on 127.0.0.1"
        )


def check_listening(settings: Settings) -> None:
    """The same for the sockets this process listens on, however it was started."""
    for connection in psutil.Process(os.getpid()).net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN:
            check_host(connection.laddr.ip, settings)
