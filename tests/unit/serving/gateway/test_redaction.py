import base64
import html
import json
from urllib.parse import quote

import pytest

from serving.gateway.redaction import MIN_IN_ANSWER, REDACTED, Redactor

KEY = 'sk-proj-aB3/xY+9"Zq&7w=Lm2Kd0Pt5'
REDACTOR = Redactor([KEY])
PARTS = [KEY[i : i + 8] for i in range(len(KEY) - 7)]


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        f"Bearer {KEY}",
        KEY.upper(),
        KEY[:12],
        KEY[9:20],
        quote(KEY, safe=""),
        html.escape(KEY),
        json.dumps(KEY)[1:-1],
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(f"user:{KEY}".encode()).decode(),
        base64.urlsafe_b64encode(f"x{KEY}".encode()).decode(),
        KEY.encode().hex(),
        f"{KEY[:7]}...{KEY[-4:]}",
        f"sk-...{KEY[-4:]}",
        f"sk-proj-********************{KEY[-4:]}.",
        f"***{KEY[-4:]}",
        f"{KEY[:5]}…",
        f"key={KEY[:3]}xxxxxxx{KEY[-3:]}",
        f"the one ending in {KEY[-4:]}",
        f"'authorization': b'Bearer {KEY}'",
    ],
)
def test_no_echo_of_a_key_is_left(echo: str) -> None:
    text = REDACTOR.clean(f"Incorrect API key provided: {echo} (see the docs)")
    assert text.startswith("Incorrect API key provided: ")
    assert text.endswith("(see the docs)")
    assert REDACTED in text
    assert KEY[-4:] not in text
    assert not any(part.lower() in text.lower() for part in PARTS)


def test_keys_of_others_go_too() -> None:
    text = Redactor().clean("got sk-or-v1-0123456789abcdef and Bearer abcdefgh.ijkl")
    assert text == f"got {REDACTED} and Bearer {REDACTED}"


@pytest.mark.parametrize(
    "text",
    [
        "maximum context length is 8192 tokens... shorten it",
        "max_tokens must be <= 4096 (got 5000)",
        "the model `llama-3.1-8b-instruct` does not exist",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert REDACTOR.clean(text) == text
    assert Redactor(["ollama", "none"]).clean(text) == text


def test_short_secrets_go_where_they_are_a_word() -> None:
    assert Redactor(["hunter2"]).clean("hunter2 hunter22") == f"{REDACTED} hunter22"


def test_words_can_be_stored_and_have_a_bound() -> None:
    text = REDACTOR.clean("a\x00b\n\n\ud800c" + "x" * 1_000_000, limit=50)
    assert text.startswith("a b c")
    assert len(text) == 50
    text.encode()


def test_an_answer_loses_long_secrets_only() -> None:
    escaped = json.dumps({"content": KEY}).encode()
    assert KEY[:8].encode() not in REDACTOR.clean_answer(escaped)
    json.loads(REDACTOR.clean_answer(escaped))
    raw = b"ollama runs models"
    assert Redactor(["ollama"]).clean_answer(raw) is raw
    assert len("ollama") < MIN_IN_ANSWER
