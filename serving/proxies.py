"""Which proxy an upstream is reached by: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``.

Upper or lower case. Loopback is never reached by a proxy. ``NO_PROXY`` names hosts, their domains,
``host:port``, addresses and networks (``10.0.0.0/8``), or ``*``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.request import getproxies, proxy_bypass_environment  # type: ignore[attr-defined]

from yarl import URL

SCHEMES: Final = ("http", "https")


class UnusableProxy(ValueError):
    """A proxy variable names no HTTP proxy."""


def proxy_of(url: URL) -> URL | None:
    """The proxy for a URL; None where it is reached directly. Raises UnusableProxy."""
    host = url.host or ""
    if is_loopback(host):
        return None
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or bypassed(host, url.port, proxies):
        return None
    try:
        proxy = URL(address if "://" in address else f"http://{address}")
        sound = proxy.scheme in SCHEMES and bool(proxy.host)
    except ValueError:
        sound = False
    if not sound:
        raise UnusableProxy(
            f"the proxy of {url.scheme} addresses is not http://host:port or https://host:port; "
            f"set {url.scheme.upper()}_PROXY, or name {host} in NO_PROXY"
        )
    return proxy


def is_loopback(host: str) -> bool:
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def bypassed(host: str, port: int | None, proxies: Mapping[str, str]) -> bool:
    """Whether ``NO_PROXY`` names the host."""
    proxies = {**proxies, "no": proxies.get("no", "").replace("*.", ".")}
    if proxy_bypass_environment(host, proxies):
        return True
    if port is not None and proxy_bypass_environment(f"{host}:{port}", proxies):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in proxies["no"].split(","):
        try:
            if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False
