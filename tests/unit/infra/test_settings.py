from pathlib import Path

import pytest

from infra.database import normal_url
from infra.settings import Settings, read_settings
from models.errors import SettingsError
from serving.binding import check_host, is_loopback


def test_a_typo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_POL_SECONDS", "3")
    with pytest.raises(SettingsError, match="did you mean 'MIXLLM_POLL_SECONDS'"):
        read_settings()


def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_PORT", "notaport")
    with pytest.raises(SettingsError, match=r"MIXLLM_PORT: .*'notaport'"):
        read_settings()


def test_home_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_HOME", "~/somewhere")
    assert read_settings().home == Path.home() / "somewhere"


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_API_KEY", "tell-nobody")
    monkeypatch.setenv("MIXLLM_DATABASE_URL", "postgresql://u:hidden@h/d")
    assert "tell-nobody" not in repr(read_settings())
    assert "hidden" not in repr(read_settings())


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_postgres_address_gets_the_same_driver(scheme: str) -> None:
    assert normal_url(f"{scheme}://u:p@h/d").drivername == "postgresql+psycopg2"


def test_other_databases_are_refused() -> None:
    with pytest.raises(SettingsError, match="mysql is not supported"):
        normal_url("mysql://h/d")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_host(host, Settings())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_an_open_address_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="MIXLLM_API_KEY"):
        check_host(host, Settings())
    monkeypatch.setenv("MIXLLM_API_KEY", "k")
    check_host(host, Settings())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALLOWED_ORIGINS", "app.example"),
        ("ALLOWED_ORIGINS", "https://app.example/"),
        ("ALLOWED_ORIGINS", "https://app.example/path"),
        ("ALLOWED_ORIGINS", "https://user@app.example"),
        ("ALLOWED_ORIGINS", "https://a.example https://b.example"),
        ("ALLOWED_HOSTS", "https://gate.example"),
        ("ALLOWED_HOSTS", "gate.example:443"),
        ("ALLOWED_HOSTS", "gate.*"),
        ("ALLOWED_HOSTS", "gate.example/path"),
    ],
)
def test_a_bad_name_or_origin_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MIXLLM_{variable}", value)
    with pytest.raises(SettingsError, match=f"MIXLLM_{variable}: .* is not a"):
        read_settings()


def test_names_and_origins_are_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_ALLOWED_HOSTS", " Gate.Example, *.corp.example,::1,")
    monkeypatch.setenv("MIXLLM_ALLOWED_ORIGINS", "https://App.example:8443,app://notes")
    settings = read_settings()
    assert settings.hosts == ("gate.example", "*.corp.example", "::1")
    assert settings.origins == ("https://app.example:8443", "app://notes")


def test_any_page_may_use_the_service_only_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_ALLOWED_ORIGINS", "*")
    with pytest.raises(SettingsError, match="MIXLLM_API_KEY"):
        check_host("127.0.0.1", read_settings())
    monkeypatch.setenv("MIXLLM_API_KEY", "k")
    check_host("127.0.0.1", read_settings())
