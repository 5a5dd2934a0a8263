"""Shadow, canary and a refused champion, in the real service."""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, func, select, text

from infra.database import connect
from infra.registry.records import Canary
from infra.registry.registry import Registry
from models.release.change import replace_defaults
from models.release.manifest import read_manifest
from monitoring.store.shadows import shadow_figures, shadow_summary
from monitoring.store.tables import decisions, releases
from processes import start, stop, wait_for


@dataclass
class Service:
    client: httpx.Client
    registry: Registry
    engine: Engine
    process: subprocess.Popen[bytes]

    def release(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/v1/release").json()
        return found

    def ask(self, count: int, **told: Any) -> Counter[str]:
        answers = [
            self.client.post("/v1/route", json={"query": f"Compute {i} + 2.", **told}).json()
            for i in range(count)
        ]
        return Counter(answer["release"] for answer in answers)


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    release_folder: Path,
    postgres: str,
    new_registry: Callable[[Path], Registry],
) -> Iterator[Service]:
    """Release 1 is champion, release 2, another λ, challenger."""
    home = tmp_path_factory.mktemp("challenger")
    admin = connect(postgres)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE challenger"))
    database = admin.url.set(database="challenger").render_as_string(hide_password=False)
    admin.dispose()
    registry = new_registry(home)
    (home / "reports").mkdir()
    defaults = read_manifest(release_folder).defaults.model_copy(
        update={"willingness_to_pay": 1e-7}
    )
    replace_defaults(release_folder, home / "other", defaults)
    for folder, run in ((release_folder, "run-1"), (home / "other", "run-2")):
        registry.register_release(folder, {}, {}, home / "reports", run)
    registry.promote("1")
    registry.challenge("2")
    process, port = start(home, database, home / "service.log", MIXLLM_SHADOW="1.0")
    engine = connect(database)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        made = Service(client, registry, engine, process)
        wait_for(lambda: client.get("/readyz").is_success)
        wait_for(lambda: made.release()["challenger"])
        yield made
    engine.dispose()
    stop(process)


def test_the_challenger_decides_beside_the_champion(service: Service) -> None:
    assert service.ask(20) == {"1": 20}
    digest = service.registry.tags("2")["digest"]
    wait_for(lambda: shadow_figures(service.engine, digest).decisions >= 20)
    figures = shadow_figures(service.engine, digest)
    assert figures.decisions == 20
    assert figures.agreement is not None
    assert 0 <= figures.agreement < 1, "at another willingness to pay it chooses otherwise"
    assert figures.gain is not None
    assert figures.gain >= 0
    assert figures.ms is not None
    assert figures.ms > 0
    assert "In shadow on 20 live queries" in str(shadow_summary(service.engine, digest))


def test_a_canary_answers_its_share_and_returns(service: Service) -> None:
    service.registry.set_canary(Canary("2", 0.5))
    wait_for(lambda: service.release()["challenger"]["canary"])
    found = service.ask(60)
    assert 10 <= found["2"] <= 50
    sessions = {session: service.ask(5, session=session) for session in ("a", "b", "c", "d")}
    assert all(len(found) == 1 for found in sessions.values()), "a conversation stays where it is"
    digest = service.registry.tags("2")["digest"]
    of = select(func.count()).select_from(decisions).where(decisions.c.release_digest == digest)

    def written() -> int:
        with service.engine.connect() as connection:
            return int(connection.execute(of).scalar_one())

    wait_for(lambda: written() >= found["2"])
    with service.engine.connect() as connection:
        known = connection.execute(select(releases.c.version)).scalars().all()
    assert "2" in known, "votes on its decisions can be learned from"
    service.registry.set_canary(None)
    wait_for(lambda: service.release()["challenger"]["canary"] is None)
    assert service.ask(20) == {"1": 20}


def test_a_canary_by_keys_answers_all_or_nothing(service: Service) -> None:
    service.registry.set_canary(Canary("2", 1.0, "keys"))
    wait_for(lambda: service.release()["challenger"]["canary"])
    assert service.ask(10) == {"2": 10}
    service.registry.set_canary(None)
    wait_for(lambda: service.release()["challenger"]["canary"] is None)


def test_a_release_that_its_gate_refused_is_not_loaded_unless_forced(service: Service) -> None:
    service.registry.client.set_model_version_tag("mixllm-router", "2", "gate.verdict", "refused")
    service.registry.client.set_model_version_tag("mixllm-router", "2", "gate.why", "it is worse")
    service.registry.client.set_registered_model_alias("mixllm-router", "champion", "2")
    wait_for(lambda: "its gate: it is worse" in (service.release()["last_error"] or ""))
    assert service.ask(3) == {"1": 3}
    service.registry.force("2")
    wait_for(lambda: service.release()["version"] == "2")
    assert service.ask(3) == {"2": 3}
    service.registry.rollback()
    wait_for(lambda: service.release()["version"] == "1")
