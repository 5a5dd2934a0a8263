from typing import Any

import pytest

from models.queries.conversation import opening, read_conversation

LONG = "Explain in detail how a bill becomes law. " * 6
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([user("hello")], "hello"),
        ([{"role": "system", "content": "Be brief."}, user("hello")], "hello"),
        ([user(LONG), {"role": "assistant", "content": "So."}, user("And in France?")],
         f"{LONG}\n\nAnd in France?"),
        ([user("first"), user(LONG)], LONG),
        ([user([{"type": "text", "text": "What is"}, IMAGE, {"type": "text", "text": "this?"}])],
         "What is\nthis?"),
        ([{"role": "system", "content": "Say something."}], "Say something."),
        ([user([IMAGE])], ""),
        ([user(None), user(7), user([3, {"text": 4}])], ""),
    ],
)  # fmt: skip
def test_what_is_asked_now_is_routed(messages: list[dict[str, Any]], text: str) -> None:
    assert read_conversation(messages).text == text


def test_the_rest_counts_as_tokens_and_needs_abilities() -> None:
    messages = [{"role": "system", "content": "x" * 4000}, user("hello")]
    assert read_conversation(messages).more_tokens == pytest.approx(1000)
    assert read_conversation(messages).abilities == ()
    assert read_conversation(messages, [{"type": "function"}]).abilities == ("tools",)
    assert read_conversation([user([IMAGE])]).abilities == ("images",)


def test_a_conversation_is_known_by_its_opening() -> None:
    first = [{"role": "system", "content": "Be brief."}, user("hello")]
    later = [*first, {"role": "assistant", "content": "hi"}, user("how are you?")]
    assert opening(first) == opening(later) != opening([user("hello")])
