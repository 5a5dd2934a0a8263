"""Notifications by webhook and by mail. A failure to send is reported and stops nothing."""

from __future__ import annotations

import hashlib
import hmac
import logging
import smtplib
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any, Final

import httpx
import orjson
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from infra.settings import Settings
from models import escape
from models.errors import SettingsError

log = logging.getLogger("mixllm.alerts")

SECONDS: Final = 10.0
SIGNATURE: Final = "x-mixllm-signature"
MAIL_PORT, MAIL_TLS_PORT = 587, 465


def notify(settings: Settings, title: str, text: str, details: Mapping[str, Any]) -> list[str]:
    """Send to every configured channel; returns the result of each, a line a channel."""
    title = " ".join(title.split())  # voters choose their names, and a header has one line
    lines = []
    if settings.alert_webhook is not None:
        lines.append(attempt("webhook", post, settings, title, text, details))
    if settings.smtp_url is not None:
        lines.append(attempt("mail", mail, settings, title, text))
    return lines


def attempt(channel: str, send: Any, *arguments: Any) -> str:
    try:
        send(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever a server does, the repair must go on
        log.error("%s: %s", channel, error)
        return f"{channel} failed: {error}"
    return f"{channel} sent"


class NotSent(Exception):
    """Why, without the address: that of a webhook is its password."""


def post(settings: Settings, title: str, text: str, details: Mapping[str, Any]) -> None:
    """One POST of {"title", "text", "details"}; ``text`` is what chat services show."""
    assert settings.alert_webhook is not None
    body = orjson.dumps(
        {"title": title, "text": escape.chat(f"{title}\n{text}"), "details": details},
        default=str,
    )
    headers = {"content-type": "application/json"}
    if settings.alert_webhook_secret is not None:
        secret = settings.alert_webhook_secret.get_secret_value().encode()
        signed = hmac.new(secret, body, hashlib.sha256).hexdigest()
        headers[SIGNATURE] = f"sha256={signed}"
    address = settings.alert_webhook.get_secret_value()
    try:
        # The answer is not read, and redirects are not followed.
        with httpx.stream(
            "POST", address, content=body, headers=headers, timeout=SECONDS, follow_redirects=False
        ) as answer:
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        why = type(error).__name__ if address in str(error) else str(error)
        raise NotSent(f"{why or type(error).__name__}; see MIXLLM_ALERT_WEBHOOK") from None
    if not 200 <= status < 300:
        raise NotSent(f"the server answered {status}; see MIXLLM_ALERT_WEBHOOK")


def mail(settings: Settings, title: str, text: str) -> None:
    """One mail to all; with TLS from the start (smtps), or where the server offers it."""
    assert settings.smtp_url is not None
    if settings.alert_to is None:
        raise SettingsError("MIXLLM_ALERT_TO is not set: mail has no recipient")
    try:
        url = make_url(settings.smtp_url.get_secret_value())
    except ArgumentError as error:
        raise SettingsError("MIXLLM_SMTP_URL: expected smtp://user:password@host:port") from error
    if url.drivername not in ("smtp", "smtps") or not url.host:
        raise SettingsError("MIXLLM_SMTP_URL: expected smtp://user:password@host:port")
    message = EmailMessage()
    message["Subject"] = f"[MixLLM] {title}"
    message["From"] = settings.alert_from
    message["To"] = settings.alert_to
    message.set_content(text)
    secure = url.drivername == "smtps"
    kind = smtplib.SMTP_SSL if secure else smtplib.SMTP
    port = url.port or (MAIL_TLS_PORT if secure else MAIL_PORT)
    with kind(url.host, port, timeout=SECONDS) as server:
        server.ehlo()
        if not secure and server.has_extn("starttls"):
            server.starttls()
            server.ehlo()
        if url.username is not None:
            server.login(url.username, str(url.password or ""))
        server.send_message(message)
