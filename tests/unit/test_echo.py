"""What an LLM's server repeats of a prompt does not stay in logs and tables."""

import pytest

from serving import echo
from serving.echo import without_echo

SECRET = 'My name is Ann O\'Neil,\n"born" 1980 in Köln'
BODY = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": SECRET}]},
        {"role": "user", "content": "Bob 77"},
    ],
    "tools": [{"type": "function", "function": {"name": "look_up_patient_record"}}],
}


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("llm answered 404: no such model", "llm answered 404: no such model"),
        ("llm answered 400: role user, type text", "llm answered 400: role user, type text"),
        (f"llm answered 400: cannot take '{SECRET}'", "llm answered 400: cannot take '…'"),
        (
            'x: "my NAME is ann o\\\'neil\\n\\"born\\"" is refused',
            'x: "…\\"" is refused',
        ),
        ("x: ... born 1980 in Köln ...", "x: ... … ..."),
        ("x: born 1980 in K\\u00f6ln", "x: …"),
        ("x: bad text 'Bob 77'; 'bob-77'", "x: bad text '…'; '…'"),
        ("x: look_up_patient_record is no function", "x: … is no function"),
        (None, None),
        ("", ""),
    ],
)
def test_the_prompt_is_masked_and_the_rest_stays(message: str | None, kept: str | None) -> None:
    assert without_echo(message, BODY) == kept


def test_of_a_huge_prompt_no_words_are_kept() -> None:
    body = {"messages": [{"role": "user", "content": "a secret " * 50_000}]}
    assert without_echo("llm answered 400: a secret", body) == "llm answered 400"


def test_a_huge_prompt_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    whole = echo.squeeze

    def counted(text: str) -> object:
        nonlocal read
        read += len(text)
        return whole(text)

    monkeypatch.setattr(echo, "squeeze", counted)
    body = {"messages": [{"role": "user", "content": "a" * 1_000_000}]}
    assert without_echo("llm answered 400: aaaa", body) == "llm answered 400"
    assert read == 0
