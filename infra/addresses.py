"""Addresses: built by libraries, so that IPv6 and odd characters in paths come out right; and what
runs on this machine is asked directly, whatever proxy the environment names."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any, Final

import httpx
from sqlalchemy.engine import make_url

from models.errors import SettingsError

LOOPBACK: Final = "127.0.0.1"


def http_url(host: str, port: int, path: str = "", login: tuple[str, str] | None = None) -> str:
    """``http://host:port/path``, as clients on this machine reach a server that listens on a host.

    login: user and password, for a link that logs in.
    """
    names = {} if login is None else {"username": login[0], "password": login[1]}
    url = httpx.URL(scheme="http", host=client_host(host), port=port, path=path, **names)
    return str(url).removesuffix("/")


def without_login(address: str) -> str:
    """An address of others, to be shown: without a user, a password or a slash at its end."""
    url = httpx.URL(address)
    return str(url.copy_with(userinfo=b"")).rstrip("/") if url.host else address


def sqlite_url(path: Path, driver: str = "sqlite+pysqlite") -> str:
    """The address of a SQLite file.

    driver: named, since of ``sqlite:///`` MLflow takes the rest for a path as it stands and makes its
        folder, escapes included.
    """
    plain = str(path).replace("%", "%25").replace("?", "%3F")
    address = f"{driver}:///{plain}"
    if make_url(address).database != str(path):
        raise ValueError(f"no SQLite address can be made of {path}")
    return address


def plain_host(host: str) -> str:
    """A host as it stands in settings: a name or an address, without brackets. Raises ValueError."""
    bare = host.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if not bare or ":" in bare or not all(c.isalnum() or c in "-._" for c in bare):
        raise ValueError("a host name or an address alone is needed, such as 127.0.0.1 or ::1")
    return bare


def listening_address(host: str) -> str:
    """The address that a server on a host binds to. Raises SettingsError for an unknown name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        known = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"MIXLLM_HOST: no address is known for {host!r} ({error})") from error
    known.sort(key=lambda entry: entry[0] != socket.AF_INET)  # clients try IPv4 too, always
    return str(known[0][4][0])


def client_host(host: str) -> str:
    """Where a client on this machine reaches a server that listens on a host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return LOOPBACK if address.version == 4 else "::1"


def check_port(host: str, port: int) -> None:
    """Raises OSError when a server could not listen there."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def request_directly(method: str, url: str, **options: Any) -> httpx.Response:
    """Ask a server of this machine, without a proxy. Raises httpx.HTTPError."""
    with direct_client(timeout=options.pop("timeout", 5.0)) as client:
        return client.request(method, url, **options)


def direct_client(**options: Any) -> httpx.Client:
    """A client that goes to servers of this machine without a proxy."""
    return httpx.Client(trust_env=False, **options)


def answers(url: str) -> bool:
    """Whether a GET is answered with 2xx."""
    try:
        return request_directly("GET", url, timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def free_loopback_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
