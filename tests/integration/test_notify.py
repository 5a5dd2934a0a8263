"""Alerts sent to real servers on loopback: a webhook, a mail server."""

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from pydantic import SecretStr

from infra.addresses import free_loopback_port
from infra.settings import Settings
from monitoring.drift.notify import SIGNATURE, notify

DETAILS = {"alert": 7, "name": "predictor-drift"}


class Hook:
    """What a webhook's server got."""

    def __init__(self, status: int = 200) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


class Mailbox:
    """What a mail server got."""

    def __init__(self) -> None:
        self.got: list[tuple[list[str], str]] = []
        self.logins: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.got.append((envelope.rcpt_tos, envelope.content.decode()))
        return "250 taken"

    def admit(self, server: Any, session: Any, envelope: Any, kind: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        self.logins.append(given.login.decode())
        return AuthResult(success=given.password == b"s3cret")


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box, port = Mailbox(), free_loopback_port()
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        loop=asyncio.new_event_loop(),
        authenticator=box.admit,
        auth_require_tls=False,
    )
    controller.start()
    yield box, port
    controller.stop()


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(home=tmp_path, **values)


def test_nothing_is_configured(tmp_path: Path) -> None:
    assert notify(settings(tmp_path), "title", "text", DETAILS) == []


def test_a_webhook_gets_signed_json(tmp_path: Path, hook: Hook) -> None:
    configured = settings(
        tmp_path,
        alert_webhook=SecretStr(hook.address),
        alert_webhook_secret=SecretStr("shared"),
    )
    assert notify(configured, "An LLM drifts", "evidence", DETAILS) == ["webhook sent"]
    ((headers, body),) = hook.got
    assert json.loads(body) == {
        "title": "An LLM drifts",
        "text": "An LLM drifts\nevidence",
        "details": DETAILS,
    }
    expected = hmac.new(b"shared", body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE] == f"sha256={expected}"


def test_mail_is_sent_to_all(tmp_path: Path, mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    configured = settings(
        tmp_path,
        smtp_url=SecretStr(f"smtp://robot:s3cret@127.0.0.1:{port}"),
        alert_to="ann@example.org, bob@example.org",
        alert_from="mixllm@example.org",
    )
    assert notify(configured, "An LLM drifts", "evidence: 0.4 → 0.2", DETAILS) == ["mail sent"]
    ((receivers, content),) = box.got
    assert receivers == ["ann@example.org", "bob@example.org"]
    assert "Subject: [MixLLM] An LLM drifts" in content
    assert box.logins == ["robot"]


def test_a_title_of_several_lines_is_one_header(
    tmp_path: Path, mailbox: tuple[Mailbox, int]
) -> None:
    box, port = mailbox
    configured = settings(
        tmp_path, smtp_url=SecretStr(f"smtp://127.0.0.1:{port}"), alert_to="ann@example.org"
    )
    title = "Feedback is poisoned: u\nBcc: eve@example.org"
    assert notify(configured, title, "text", DETAILS) == ["mail sent"]
    assert box.got[0][0] == ["ann@example.org"]


def test_what_cannot_be_sent_is_said_and_the_other_channel_goes_on(
    tmp_path: Path, mailbox: tuple[Mailbox, int]
) -> None:
    box, port = mailbox
    refusing = Hook(status=500)
    configured = settings(
        tmp_path,
        alert_webhook=SecretStr(refusing.address),
        smtp_url=SecretStr(f"smtp://127.0.0.1:{port}"),
        alert_to="ann@example.org",
    )
    webhook, mail = notify(configured, "title", "text", DETAILS)
    refusing.close()
    assert webhook.startswith("webhook failed: ")
    assert "500" in webhook
    assert mail == "mail sent"
    assert len(box.got) == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("smtp://127.0.0.1:1", "refused"),
        ("http://127.0.0.1:1", "expected smtp://user:password@host:port"),
        ("nonsense", "expected smtp://user:password@host:port"),
    ],
)
def test_a_bad_mail_server_is_said(tmp_path: Path, url: str, message: str) -> None:
    configured = settings(tmp_path, smtp_url=SecretStr(url), alert_to="ann@example.org")
    (line,) = notify(configured, "title", "text", DETAILS)
    assert message in line


def test_mail_without_a_receiver_is_said(tmp_path: Path) -> None:
    (line,) = notify(
        settings(tmp_path, smtp_url=SecretStr("smtp://127.0.0.1:1")), "title", "text", DETAILS
    )
    assert "MIXLLM_ALERT_TO is not set" in line


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (302, "the server answered 302"),
        (404, "the server answered 404"),
        (500, "the server answered 500"),
    ],
)
def test_a_refused_webhook_is_said_without_its_address(
    status: int, result: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Hook(status)
    address = f"{made.address}/services/T0/B0/secret-token"
    (line,) = notify(settings(tmp_path, alert_webhook=SecretStr(address)), "t", "x", DETAILS)
    made.close()
    assert line == f"webhook failed: {result}; see MIXLLM_ALERT_WEBHOOK"
    assert len(made.got) == 1, "where it leads is not followed"
    assert "secret-token" not in caplog.text


@pytest.mark.parametrize(
    "address",
    [
        "hooks.example/secret-token",
        "http://127.0.0.1:port/secret-token",
        "http://[/secret-token",
        "file:///etc/passwd?secret-token",
        "http://\u2603.\x00/secret-token",
        "",
    ],
)
def test_a_webhook_that_is_no_address_stops_nothing(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = notify(settings(tmp_path, alert_webhook=SecretStr(address)), "t", "x", DETAILS)
    assert line.startswith("webhook failed: ")
    assert "secret-token" not in line + caplog.text


def test_names_in_a_message_call_nobody(tmp_path: Path, hook: Hook) -> None:
    configured = settings(tmp_path, alert_webhook=SecretStr(hook.address))
    notify(configured, "voter <!channel>", "@here <http://evil.example|x> [a](http://b)", DETAILS)
    ((_, body),) = hook.got
    text = json.loads(body)["text"]
    assert not set("<>@") & set(text)
    assert "](" not in text
