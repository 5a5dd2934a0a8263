"""What an LLM's server repeats of a prompt does not stay in logs and tables."""

import pytest

from serving.gateway import echo
from serving.gateway.echo import MOST_TEXTS, Echoes, letters_of, squeeze

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
    assert Echoes(BODY).mask(message) == kept


@pytest.mark.parametrize(
    "content",
    ["a secret " * 50_000, ["a secret"] * (MOST_TEXTS + 1), [""] * (MOST_TEXTS + 1) + ["a secret"]],
)
def test_a_huge_prompt_is_not_looked_through_and_no_words_are_kept(
    content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo, "letters_of", None)
    monkeypatch.setattr(echo, "squeeze", None)
    body = {"messages": [{"role": "user", "content": content}]}
    assert Echoes(body).mask("llm answered 400: a secret") == "llm answered 400"


def test_a_prompt_is_read_once_for_all_messages_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def counted(text: str) -> str:
        read.append(text)
        return letters_of(text)

    monkeypatch.setattr(echo, "letters_of", counted)
    echoes = Echoes({"messages": [{"role": "user", "content": "My name is Ann O'Neil"}]})
    assert echoes.mask(None) is None
    assert not read, "most requests have no error"
    for _ in range(3):
        assert echoes.mask("x: my name is Ann O'Neil!") == "x: …!"
    assert len(read) == 1


@pytest.mark.parametrize(
    "text",
    ["ΟΔΥΣΣΕΥΣ ΟΔΥΣΣΕΥΣ", "İstanbul", "K\\u00f6ln\\n\\\\n 5", "a_b-c", "Ünïcödé ①½", "\ud800x"],
)
def test_prompts_and_messages_are_read_alike(text: str) -> None:
    assert squeeze(text)[0] == letters_of(text)


def test_a_deep_prompt_is_read() -> None:
    deep: object = "a secret of many letters"
    for _ in range(5000):
        deep = [deep]
    assert Echoes({"messages": deep}).mask("x: a secret of many letters") == "x: …"
