import pytest

from serving.http.paths import missing, nearest_path

KNOWN = {"/v1/chat/completions", "/v1/models", "/v1/route", "/v1/feedback", "/v1/docs"}


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/V1/Chat/Completions", "/v1/chat/completions"),
        ("//v1//chat/completions", "/v1/chat/completions"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/gpt-4o/chat/completions", "/v1/chat/completions"),
        ("/v1/completions", "/v1/chat/completions"),
        ("/v1/responses", "/v1/chat/completions"),
        ("/v1/messages", "/v1/chat/completions"),
        ("/api/chat", "/v1/chat/completions"),
        ("/api/generate", "/v1/chat/completions"),
        ("/v1beta/models/gemini:generateContent", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/api/tags", "/v1/models"),
        ("/route", "/v1/route"),
        ("/v1/routes", "/v1/route"),
        ("/docs", "/v1/docs"),
        ("/health", "/livez"),
        ("/favicon.ico", None),
        ("/", None),
        ("/" + "x" * 10_000, None),
    ],
)
def test_the_path_that_was_meant_is_named(path: str, meant: str | None) -> None:
    assert nearest_path(path, KNOWN) == meant
    said = missing(path, KNOWN)
    assert len(said) < 300
    assert said.endswith(f"did you mean {meant}?") if meant else "did you mean" not in said
