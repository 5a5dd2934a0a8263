"""Who is let in when the keys, their copy or the database are in doubt."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from infra.database import connect
from infra.settings import Settings
from monitoring.store.keys import KeyOptions, create_key, open_access, require_keys, revoke_key
from monitoring.store.schema import migrate
from processes import wait_for
from serving.access.keys import KeyRing
from serving.refusals import Refused

AWAY = OperationalError("SELECT", {}, Exception("Postgres is away"))


def away() -> Engine:
    raise AWAY


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[Engine]:
    admin = connect(postgres)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE key_ring"))
    made = connect(admin.url.set(database="key_ring").render_as_string(hide_password=False))
    admin.dispose()
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def engine(database: Engine) -> Engine:
    """A database in which nobody ever made a key."""
    with database.begin() as connection:
        connection.execute(text("TRUNCATE api_keys, key_requirements, answers"))
    return database


class Rings:
    """Starts rings on one home, each as a service process of its own would."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.settings = Settings(home=home, poll_seconds=0.05, **settings)
        self.path = home / "keys.json"
        self.running: list[KeyRing] = []
        home.mkdir(parents=True, exist_ok=True)

    def start(self, engine: Any) -> KeyRing:
        ring = KeyRing(self.settings, engine if callable(engine) else lambda: engine)
        self.running.append(ring)
        ring.start()
        return ring

    def stop(self) -> None:
        for ring in self.running:
            ring.stop()
        self.running.clear()


@pytest.fixture
def rings(tmp_path: Path) -> Any:
    made = Rings(tmp_path / "home")
    yield made
    made.stop()


def status(ring: KeyRing, key: str = "", scope: str = "route") -> int:
    """What a request with a key gets."""
    try:
        ring.admit({"x-api-key": key} if key else {}, scope)
    except Refused as error:
        return error.status
    return 200


def refusal(ring: KeyRing, key: str = "") -> str:
    with pytest.raises(Refused) as caught:
        ring.admit({"x-api-key": key} if key else {}, "route")
    return str(caught.value)


def test_a_new_machine_is_open_until_the_first_key(rings: Rings, engine: Engine) -> None:
    ring = rings.start(engine)
    assert status(ring, scope="admin") == 200
    _, secret = create_key(engine, "app", ["route"])
    wait_for(lambda: status(ring) == 401, 5)
    assert status(ring, secret) == 200
    assert status(ring, secret, "feedback") == 403


def test_the_last_revocation_opens_no_door(rings: Rings, engine: Engine) -> None:
    _, secret = create_key(engine, "app", ["admin"])
    ring, replica = rings.start(engine), rings.start(engine)
    revoke_key(engine, "app")
    wait_for(lambda: status(ring, secret) == status(replica, secret) == 401, 5)
    for one in (ring, replica):
        assert status(one) == 401
        assert status(one, scope="admin") == 401
        assert "mixllm keys open" in refusal(one)
    open_access(engine)
    wait_for(lambda: status(ring) == status(replica) == 200, 5)
    require_keys(engine)
    wait_for(lambda: status(ring) == status(replica) == 401, 5)


def test_without_postgres_the_copy_says_who_may_ask(rings: Rings, engine: Engine) -> None:
    _, secret = create_key(engine, "app", ["route"])
    rings.start(engine)
    wait_for(rings.path.is_file, 5)
    assert rings.path.stat().st_mode & 0o777 == 0o600
    assert secret not in rings.path.read_text()
    rings.stop()
    ring = rings.start(away)
    assert (status(ring), status(ring, secret)) == (401, 200)
    rings.stop()
    revoke_key(engine, "app")
    rings.start(engine)
    wait_for(lambda: not json.loads(rings.path.read_text())["keys"], 5)
    rings.stop()
    assert status(rings.start(away)) == 401
    rings.stop()
    open_access(engine)
    rings.start(engine)
    wait_for(lambda: not json.loads(rings.path.read_text())["keys_required"], 5)
    rings.stop()
    assert status(rings.start(away)) == 200, "open when last heard of"


def good_copy(**changes: Any) -> str:
    return json.dumps({"format": 2, "keys_required": False, "keys": [], **changes})


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "null",
        "[1]",
        '"open"',
        "{}",
        "[" * 100_000,
        good_copy()[:-1],
        good_copy(format=3),
        good_copy(keys_required=None),
        good_copy(keys_required="no"),
        good_copy(keys_required=0),
        good_copy(keys=None),
        good_copy(keys=[{"id": "1"}]),
        good_copy(more=1),
        "\x00" * 100,
    ],
)
def test_doubt_opens_no_door(rings: Rings, content: str | None) -> None:
    if content is not None:
        rings.path.write_text(content)
    ring = rings.start(away)
    assert status(ring) == status(ring, "anything") == status(ring, scope="admin") == 503
    message = refusal(ring)
    assert "the API keys cannot be read: Postgres does not answer" in message
    assert ("there is no copy" if content is None else "is unreadable") in message


def test_what_cannot_be_opened_is_no_copy(rings: Rings) -> None:
    rings.path.mkdir()
    assert status(rings.start(away)) == 503


def test_an_earlier_versions_copy_is_read(rings: Rings) -> None:
    rings.path.write_text("[]")
    assert status(rings.start(away)) == 401, "it was only written once there had been a key"


def test_postgres_ends_the_doubt_and_the_copy_is_written_anew(rings: Rings, engine: Engine) -> None:
    _, secret = create_key(engine, "app", ["route"])
    rings.path.write_text("{")
    ring = rings.start(engine)
    assert (status(ring), status(ring, secret)) == (401, 200)
    wait_for(lambda: rings.path.read_text() != "{", 5)
    assert json.loads(rings.path.read_text())["keys_required"]
    rings.path.unlink()
    wait_for(rings.path.is_file, 5)


def test_an_unreadable_copy_and_a_database_that_never_heard_of_keys_are_doubt(
    rings: Rings, engine: Engine
) -> None:
    rings.path.write_text("{")
    ring = rings.start(engine)
    assert status(ring) == 503
    assert "Postgres has no record of them" in refusal(ring)
    open_access(engine)
    wait_for(lambda: status(ring) == 200, 5)


def test_another_database_opens_no_door(rings: Rings, engine: Engine) -> None:
    """The copy says that keys are required; an empty database does not take that back."""
    rings.path.write_text(good_copy(keys_required=True))
    ring = rings.start(engine)
    assert status(ring) == 401
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE api_keys, key_requirements"))
    time.sleep(0.2)
    assert status(ring) == 401


@pytest.mark.parametrize("table", ["api_keys", "key_requirements"])
def test_a_database_without_the_table_is_doubt(rings: Rings, engine: Engine, table: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO elsewhere"))
    ring = rings.start(engine)
    assert status(ring) == 503
    assert "Postgres does not show them" in refusal(ring)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE elsewhere RENAME TO {table}"))
    wait_for(lambda: status(ring) == 200, 5)


def test_known_keys_outlive_postgres(rings: Rings, engine: Engine) -> None:
    _, secret = create_key(engine, "app", ["route"])
    ring = rings.start(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE api_keys RENAME TO elsewhere"))
    time.sleep(0.2)
    assert (status(ring), status(ring, secret)) == (401, 200)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO api_keys"))


def test_a_key_of_odd_content_says_so_and_none_without_a_key_comes_in(
    rings: Rings, engine: Engine
) -> None:
    _, secret = create_key(engine, "odd", ["admin"])
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET monthly_budget_usd = 'NaN'"))
    ring = rings.start(engine)
    assert (status(ring), status(ring, secret)) == (401, 403)
    assert "monthly_budget_usd" in refusal(ring, secret)


def test_the_key_of_the_settings_needs_no_database(tmp_path: Path) -> None:
    rings = Rings(tmp_path, api_key="s3cret")
    try:
        ring = rings.start(away)
        assert (status(ring), status(ring, "wrong"), status(ring, "s3cret")) == (503, 503, 200)
    finally:
        rings.stop()


def test_what_was_spent_is_known_without_postgres(rings: Rings, engine: Engine) -> None:
    key, secret = create_key(engine, "app", ["route"], KeyOptions(monthly_budget_usd=1.0))
    ring = rings.start(engine)
    wait_for(lambda: ring.admit({"x-api-key": secret}, "route"), 5)
    ring.settle(key.id, "decision", 1.0)
    wait_for(lambda: json.loads(rings.path.read_text())["spent"] == {key.id: 1.0}, 5)
    rings.stop()
    ring = rings.start(away)
    with pytest.raises(Refused) as caught:
        ring.check_budget(ring.admit({"x-api-key": secret}, "route"))
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    rings.stop()
    copy = json.loads(rings.path.read_text())
    rings.path.write_text(json.dumps({**copy, "month": None, "spent": {}}))
    ring = rings.start(away)
    with pytest.raises(Refused, match="what key 'app' has spent cannot be read") as caught:
        ring.check_budget(ring.admit({"x-api-key": secret}, "route"))
    assert caught.value.status == 503


def test_a_copy_that_cannot_be_written_stops_nobody(rings: Rings, engine: Engine) -> None:
    if os.geteuid() == 0:
        rings.path.mkdir()  # root writes everywhere, but not over a folder
    else:
        rings.path.parent.chmod(0o500)
    _, secret = create_key(engine, "app", ["route"])
    ring = rings.start(engine)
    try:
        assert (status(ring), status(ring, secret)) == (401, 200)
    finally:
        rings.path.parent.chmod(0o700)


def test_the_rate_says_how_long_to_wait(rings: Rings, engine: Engine) -> None:
    _, secret = create_key(engine, "app", ["route"], KeyOptions(requests_per_minute=1))
    ring = rings.start(engine)
    assert status(ring, secret) == 200
    with pytest.raises(Refused) as caught:
        ring.admit({"x-api-key": secret}, "route")
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert caught.value.retry_after in (59, 60)
