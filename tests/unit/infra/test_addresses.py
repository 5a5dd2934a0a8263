"""Addresses of every kind of host and path, and the ways past a proxy."""

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from infra.addresses import (
    check_port,
    client_host,
    http_url,
    listening_address,
    plain_host,
    request_directly,
    sqlite_url,
    without_login,
)
from infra.proxy_bypass import bypass_proxy
from infra.settings import read_settings
from models.errors import SettingsError
from processes import free_port

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:3000"),
        ("localhost", "http://localhost:3000"),
        ("::1", "http://[::1]:3000"),
        ("[::1]", "http://[::1]:3000"),
        ("0:0:0:0:0:0:0:1", "http://[::1]:3000"),
        ("2001:db8::2", "http://[2001:db8::2]:3000"),
        ("0.0.0.0", "http://127.0.0.1:3000"),
        ("::", "http://[::1]:3000"),
        (" gateway.example.org ", "http://gateway.example.org:3000"),
    ],
)
def test_a_client_reaches_every_host(
    host: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_HOST", host)
    assert read_settings().service_url == address


@pytest.mark.parametrize(
    "host",
    ["", " ", "127.0.0.1:3000", "http://localhost", "a b", "host/path", "[::1", "user@host", "::g"],
)
def test_what_is_no_host_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_HOST", host)
    with pytest.raises(SettingsError, match=r"MIXLLM_HOST: .*a host name or an address alone"):
        read_settings()


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("0.0.0.0", "http://127.0.0.1:5000"),
        ("::", "http://[::1]:5000"),
        ("2001:db8::2", "http://[2001:db8::2]:5000"),
        ("gateway.example", "http://gateway.example:5000"),
    ],
)
def test_every_address_that_is_shown_can_be_reached(host: str, shown: str) -> None:
    assert http_url(host, 5000) == shown
    assert http_url(host, 5000, "/api") == f"{shown}/api"
    login = http_url(host, 5000, "/in", ("me", "p@ss/word:1"))
    assert login == f"{shown.replace('//', '//me:p%40ss%2Fword%3A1@')}/in"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@mlflow.example/base/", "https://mlflow.example/base"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("postgresql://me:secret@host:5432/mlflow", "postgresql://host:5432/mlflow"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_an_address_of_others_is_shown_without_its_login(address: str, shown: str) -> None:
    assert without_login(address) == shown


def test_a_name_is_bound_by_its_address() -> None:
    assert listening_address("localhost") in ("127.0.0.1", "::1")
    assert listening_address("::1") == "::1"
    with pytest.raises(SettingsError, match=r"no address is known for 'nowhere\.invalid'"):
        listening_address("nowhere.invalid")
    assert client_host(plain_host("localhost")) == "localhost"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_taken_port_is_seen_on_every_kind_of_host(host: str) -> None:
    address = listening_address(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((address, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            check_port(host, port)
    check_port(host, free_port())


@pytest.mark.parametrize("name", ["a b", "100%20", "it's", 'q"q', "ünï", "a?b=c", "a#b", "a@b:c"])
def test_a_path_survives_in_a_database_address(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    url = sqlite_url(folder / "a.db")
    assert make_url(url).database == str(folder / "a.db")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INT)"))
    engine.dispose()
    assert (folder / "a.db").is_file()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture(params=["127.0.0.1", "localhost", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server on loopback, by an address and by name."""
    six = request.param == "::1"
    made = (Server if six else http.server.ThreadingHTTPServer)(
        ("::1" if six else "127.0.0.1", 0), Quiet
    )
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield http_url(request.param, made.server_address[1])
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable names a proxy that does not answer."""
    for name in PROXIES:
        monkeypatch.setenv(name, http_url("127.0.0.1", free_port()))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_our_own_parts_are_asked_without_the_proxy(server: str, proxy: None) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(server)
    assert request_directly("GET", server).is_success


@pytest.mark.parametrize("spelling", ["no_proxy", "NO_PROXY"])
def test_libraries_reach_loopback_without_the_proxy(
    server: str, proxy: None, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's client is httpx, MLflow's is requests."""
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(spelling, "intranet.example.org")
    bypass_proxy()
    assert httpx.get(server).is_success
    assert requests.get(server, timeout=5).ok
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://elsewhere.invalid")


def test_what_goes_past_the_proxy_already_still_does() -> None:
    environment = {"NO_PROXY": "a.example, b.example", "no_proxy": "b.example"}
    bypass_proxy(environment)
    wanted = "b.example,a.example,localhost,127.0.0.1,::1"
    assert environment == {"NO_PROXY": wanted, "no_proxy": wanted}
    bypass_proxy(environment)
    assert environment["no_proxy"] == wanted
    star = {"NO_PROXY": "*"}
    bypass_proxy(star)
    assert star == {"NO_PROXY": "*", "no_proxy": "*"}
