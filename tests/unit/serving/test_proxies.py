import pytest
from yarl import URL

from serving.proxies import UnusableProxy, proxy_of

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("upper", [False, True])
def test_upstreams_go_by_the_proxy_of_their_scheme(
    upper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"http_proxy": "http://plain:3128", "https_proxy": "secure:3128"}
    for name, value in values.items():
        monkeypatch.setenv(name.upper() if upper else name, value)
    assert proxy_of(URL("http://host/v1")) == URL("http://plain:3128")
    assert proxy_of(URL("https://host/v1")) == URL("http://secure:3128")


def test_without_a_proxy_of_its_scheme_the_one_for_all_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert proxy_of(URL("https://host/v1")) is None
    monkeypatch.setenv("ALL_PROXY", "http://any:1")
    assert proxy_of(URL("https://host/v1")) == URL("http://any:1")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]"]
)
def test_loopback_is_reached_directly(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert proxy_of(URL(f"http://{host}:8000/v1")) is None


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("example.com", True),
        ("api.example.com", True),
        ("api.other.org", True),
        ("notexample.com", False),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("[fd00::1]", True),
        ("one:8000", True),
        ("one:9000", False),
    ],
)
def test_no_proxy_names_exceptions(
    host: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "example.com, *.other.org,10.0.0.0/8,fd00::/8,one:8000")
    assert (proxy_of(URL(f"http://{host}/v1")) is None) == direct
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_of(URL(f"http://{host}/v1")) is None


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "http://", "http://[", "ftp://x"])
def test_what_is_no_http_proxy_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)
    with pytest.raises(UnusableProxy, match="HTTP_PROXY") as caught:
        proxy_of(URL("http://host/v1"))
    assert "1080" not in str(caught.value), "it may hold a password"
