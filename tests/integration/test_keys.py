import re
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, select

from models.errors import StoreError
from monitoring.answers import insert_answers, month_start, read_answer, spent_this_month
from monitoring.keys import create_key, hash_key, list_keys, revoke_key, valid_keys
from monitoring.tables import api_keys


def test_a_key_is_kept_as_a_hash_alone(engine: Engine) -> None:
    key, secret = create_key(engine, "app", ["route"], 60, 10.0)
    assert re.fullmatch(rf"mixllm-{key.id}-[\w-]{{43}}", secret)
    assert valid_keys(engine) == [key]
    assert key.sha256 == hash_key(secret)
    with engine.connect() as connection:
        stored = str(connection.execute(select(api_keys)).all())
    assert secret not in stored
    assert secret[-20:] not in stored


def test_names_are_free_again_once_revoked(engine: Engine) -> None:
    create_key(engine, "app", ["route"])
    with pytest.raises(StoreError, match="there is a key 'app' already"):
        create_key(engine, "app", ["route"])
    revoke_key(engine, "app")
    assert valid_keys(engine) == []
    create_key(engine, "app", ["feedback"])
    assert [row["revoked_at"] is None for row in list_keys(engine)] == [False, True]


def test_what_is_mistyped_is_named(engine: Engine) -> None:
    with pytest.raises(StoreError, match="no scope 'rout'; did you mean 'route'"):
        create_key(engine, "app", ["rout"])
    create_key(engine, "app", ["route"])
    with pytest.raises(StoreError, match="no key 'ap' is in use; did you mean 'app'"):
        revoke_key(engine, "ap")


def test_the_first_answer_to_a_decision_stays_and_is_counted_once(engine: Engine) -> None:
    identity = str(uuid4())
    row = {
        "decision_id": identity,
        "finished_at": datetime.now(UTC).isoformat(),
        "llm": "a",
        "status": "answered",
        "error": None,
        "attempts": [{"llm": "a"}],
        "prompt_tokens": 3,
        "response_tokens": 4,
        "cost_usd": 0.5,
        "first_token_seconds": None,
        "seconds": 1.0,
        "streamed": False,
        "key_id": "k",
    }
    insert_answers(engine, [row])
    insert_answers(engine, [{**row, "cost_usd": 9.0}])
    old = {**row, "decision_id": str(uuid4()), "finished_at": "2020-01-01T00:00:00+00:00"}
    insert_answers(engine, [old])
    assert spent_this_month(engine) == {"k": 0.5}
    found = read_answer(engine, UUID(identity))
    assert found is not None
    assert {key: found[key] for key in ("llm", "cost_usd", "attempts")} == {
        "llm": "a", "cost_usd": 0.5, "attempts": [{"llm": "a"}]
    }  # fmt: skip
    assert month_start(datetime(2026, 2, 3, 4, tzinfo=UTC)) == datetime(2026, 2, 1, tzinfo=UTC)
