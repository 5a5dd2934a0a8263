import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, select, update
from typer.testing import CliRunner

from mixllm import cli
from models.errors import StoreError
from monitoring.store.answers import insert_answers, month_start, read_answer, spent_this_month
from monitoring.store.keys import (
    KeyOptions,
    create_key,
    hash_key,
    list_keys,
    open_access,
    read_access,
    require_keys,
    revoke_key,
    valid_keys,
)
from monitoring.store.tables import api_keys


def test_a_key_is_kept_as_a_hash_alone(engine: Engine) -> None:
    key, secret = create_key(engine, "app", ["route"], KeyOptions(60, 10.0))
    assert re.fullmatch(rf"mixllm-{key.id}-[\w-]{{43}}", secret)
    assert valid_keys(engine) == [key]
    assert key.sha256 == hash_key(secret)
    with engine.connect() as connection:
        stored = str(connection.execute(select(api_keys)).all())
    assert secret not in stored
    assert secret[-20:] not in stored


def test_names_are_free_again_once_revoked(engine: Engine) -> None:
    create_key(engine, "app", ["route"])
    with pytest.raises(StoreError, match="key 'app' already exists"):
        create_key(engine, "app", ["route"])
    revoke_key(engine, "app")
    assert valid_keys(engine) == []
    create_key(engine, "app", ["feedback"])
    assert [row["revoked_at"] is None for row in list_keys(engine)] == [False, True]


def test_once_required_keys_stay_required_until_a_command_says_otherwise(engine: Engine) -> None:
    assert read_access(engine).required is None, "nobody ever said"
    create_key(engine, "app", ["route"])
    assert read_access(engine).required is True
    with pytest.raises(StoreError, match=r"1 key is in use \(app\); revoke them first"):
        open_access(engine)
    revoke_key(engine, "app")
    assert read_access(engine).required is True
    open_access(engine)
    assert read_access(engine).required is False
    require_keys(engine)
    assert read_access(engine).required is True
    open_access(engine)
    create_key(engine, "app", ["route"])
    assert read_access(engine).required is True


def test_databases_with_keys_of_an_earlier_version_require_them(engine: Engine) -> None:
    from alembic import command

    from monitoring.store.schema import configuration, migrate

    create_key(engine, "app", ["route"])
    revoke_key(engine, "app")
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
    migrate(engine)
    assert read_access(engine).required is True


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"monthly_budget_usd": float("nan")}, "monthly_budget_usd"),
        ({"monthly_budget_usd": float("inf")}, "monthly_budget_usd"),
        ({"monthly_budget_usd": -1.0}, "monthly_budget_usd"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"scopes": ["route", "everything"]}, "scopes"),
        ({"scopes": ["route", None]}, "scopes"),
        ({"exploration": {"kind": "dice"}}, "exploration"),
        ({"exploration": [1]}, "exploration"),
        ({"sha256": "ABC"}, "sha256"),
        ({"name": ""}, "name"),
        ({"id": "root"}, "id"),
    ],
)
def test_a_row_of_odd_content_is_no_key_and_opens_nothing(
    engine: Engine, values: dict[str, Any], why: str
) -> None:
    good, _ = create_key(engine, "good", ["route"])
    create_key(engine, "odd", ["route"])
    with engine.begin() as connection:
        connection.execute(update(api_keys).where(api_keys.c.name == "odd").values(values))
    access = read_access(engine)
    assert access.keys == (good,)
    assert access.required is True
    (message,) = access.unusable.values()
    assert why in message


@pytest.mark.parametrize("name", ["", "  ", "a\x00b", "a\nb", "x" * 300])
def test_a_keys_name_can_be_read(engine: Engine, name: str) -> None:
    with pytest.raises(StoreError):
        create_key(engine, name, ["route"])


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), -1.0])
def test_a_budget_is_an_amount(engine: Engine, budget: float) -> None:
    with pytest.raises(StoreError, match="monthly"):
        create_key(engine, "app", ["route"], KeyOptions(monthly_budget_usd=budget))
    assert list_keys(engine) == []


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
    report = {**row, "cost_usd": 0.0, "status": "reported", "attempts": []}
    insert_answers(engine, [report])
    assert spent_this_month(engine) == {"k": 0.5}, "a report hides no cost"
    late = {**row, "decision_id": str(uuid4()), "key_id": "late"}
    insert_answers(engine, [{**report, "decision_id": late["decision_id"], "key_id": "late"}])
    insert_answers(engine, [report, late])
    assert spent_this_month(engine) == {"k": 0.5, "late": 0.5}, "whichever of them comes first"
    failed = {**row, "decision_id": str(uuid4()), "status": "failed", "key_id": "lost"}
    insert_answers(engine, [{**failed, "llm": None, "cost_usd": None, "lost_usd": 0.25}])
    assert spent_this_month(engine).pop("lost") == 0.25, "a call that brought no answer"
    insert_answers(engine, [{**late, "decision_id": str(uuid4()), "cost_usd": None}])
    old = {**row, "decision_id": str(uuid4()), "finished_at": "2020-01-01T00:00:00+00:00"}
    insert_answers(engine, [old])
    assert spent_this_month(engine) == {"k": 0.5, "late": 0.5, "lost": 0.25}
    answer = read_answer(engine, UUID(identity))
    assert answer is not None
    assert {key: answer[key] for key in ("llm", "cost_usd", "attempts")} == {
        "llm": "a", "cost_usd": 0.5, "attempts": [{"llm": "a"}]
    }  # fmt: skip
    assert month_start(datetime(2026, 2, 3, 4, tzinfo=UTC)) == datetime(2026, 2, 1, tzinfo=UTC)


def test_the_commands_say_whether_a_key_is_needed(
    engine: Engine, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_DATABASE_URL", empty_database)
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> str:
        ended = CliRunner().invoke(cli.app, ["keys", *words])
        assert (ended.exit_code == 0) == (ended.exception is None)
        return ended.output + str(ended.exception or "")

    assert "No request needs a key; from the first key on" in run("list")
    assert "Every request needs a key" in run("require")
    assert run("create", "app", "--monthly-budget", "0.05").startswith("mixllm-")
    assert "$0.05" in run("list")
    assert "1 key is in use (app); revoke them first" in run("open")
    with engine.begin() as connection:
        connection.execute(update(api_keys).values(requests_per_minute=-1))
    assert "key 'app': requests_per_minute" in run("list")
    assert "every request still needs one" in run("revoke", "app")
    assert "No request needs a key: mixllm keys open" in run("open")
    assert read_access(engine).required is False
