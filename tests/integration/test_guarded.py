"""Prefect, MLflow and Evidently behind the guard: the attack on a machine's stack, and its own use."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from evidently.ui.workspace import Workspace
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from infra.addresses import free_loopback_port
from infra.guard.credentials import Credentials, read_credentials
from infra.settings import Settings
from infra.stack.parts import Part, local_parts
from processes import kill, wait_for

FOREIGN = {"origin": "http://evil.example", "content-type": "text/plain"}
REBOUND = {"origin": "http://evil.example", "host": "evil.example"}
SHELL = {
    "pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/owned"}}]
}


@dataclass(frozen=True)
class Servers:
    """credentials, and each part's address and environment."""

    home: Path
    credentials: Credentials
    parts: Mapping[str, Part]

    def client(self, name: str, login: bool = True) -> httpx.Client:
        url = self.parts[name].url
        assert url is not None
        auth = (self.credentials.user, self.credentials.password) if login else None
        return httpx.Client(base_url=url, auth=auth, timeout=30)


def is_up(address: str) -> bool:
    return httpx.get(address).is_success


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    home = tmp_path_factory.mktemp("guarded") / "home"
    names = ("mlflow", "prefect", "evidently")
    ports: Any = {f"{name}_port": free_loopback_port() for name in names}
    parts = local_parts(Settings(home=home, **ports), "postgresql://nobody@127.0.0.1/none")
    Workspace.create(str(home / "evidently")).create_project("kept")
    started = []
    for part in parts:
        if part.name in names:
            environment = {**os.environ, **part.environment}
            with (home / f"{part.name}.log").open("wb") as log:
                child = subprocess.Popen(
                    part.command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            started.append(child)
    by_name = {part.name: part for part in parts}
    for name in names:
        wait_for(partial(is_up, by_name[name].health or ""), 120)
    yield Servers(home, read_credentials(home), by_name)
    for child in started:
        kill(child)


PATHS = {
    "prefect": ["/", "/ui-settings", "/api/health", "/api/deployments/filter", "/docs",
                "/openapi.json", "/api/admin/settings", "/api/csrf-token?client=x", "/nothing"],
    "mlflow": ["/", "/health", "/graphql", "/static-files/index.html", "/nothing",
               "/api/2.0/mlflow/experiments/search", "/ajax-api/2.0/mlflow/runs/search",
               "/gateway/x", "/v1/traces", "/get-artifact", "/api/3.0/mlflow/assistant/config"],
    "evidently": ["/", "/api/version", "/api/projects", "/api/v2/projects", "/static/index.html",
                  "/nothing"],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PATHS))
def test_no_path_answers_another_page_or_another_name(servers: Servers, name: str) -> None:
    with servers.client(name) as client:
        for path in PATHS[name]:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                for headers in (FOREIGN, REBOUND, {"host": "evil.example"}):
                    answer = client.request(method, path, headers=headers, content="{}")
                    assert answer.status_code == 403, (method, path, headers)
                    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("name", ["evidently", "mlflow"])
def test_nothing_but_health_is_open_without_the_login(servers: Servers, name: str) -> None:
    with servers.client(name, login=False) as client:
        for path in PATHS[name]:
            open_path = path in (servers.parts[name].health or "") and path != "/"
            assert (client.get(path).status_code == 200) == open_path, path
            assert client.post(path, content="{}").status_code == 401, path


def test_prefect_does_nothing_without_the_login(servers: Servers) -> None:
    with servers.client("prefect", login=False) as client:
        assert client.get("/api/openapi.json").status_code == 401
        for path in ("/api/flows/", "/api/deployments/filter", "/api/admin/database/clear"):
            assert client.post(path, json={}).status_code == 401, path
        assert client.get("/ui-settings").json()["auth"] == "BASIC"


def test_a_web_page_cannot_change_what_a_deployment_runs(servers: Servers) -> None:
    with servers.client("prefect") as client:
        flow = client.post("/api/flows/", json={"name": "steady"}).json()["id"]
        made = client.post("/api/deployments/", json={"name": "daily", "flow_id": flow})
        address = f"/api/deployments/{made.json()['id']}"
        for headers in (FOREIGN, REBOUND):
            assert client.patch(address, json=SHELL, headers=headers).status_code == 403
            started = client.post(f"{address}/create_flow_run", json={}, headers=headers)
            assert started.status_code == 403
        with servers.client("prefect", login=False) as stranger:
            assert stranger.patch(address, json=SHELL).status_code == 401
            assert stranger.post(f"{address}/create_flow_run", json={}).status_code == 401
        assert not client.get(address).json()["pull_steps"]
        own = {"origin": f"{client.base_url}".rstrip("/")}
        for origin in (own["origin"], own["origin"].replace("127.0.0.1", "localhost")):
            answer = client.get(address, headers={"origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin
        paused = client.patch(address, json={"paused": True}, headers=own)
        assert paused.status_code == 204
        assert client.get(address).json()["paused"]


@pytest.mark.parametrize("path", ["/api/events/in", "/api/events/out", "/api/logs/out"])
def test_websockets_are_for_its_own_pages_and_the_login(servers: Servers, path: str) -> None:
    url = f"{servers.parts['prefect'].url}{path}".replace("http", "ws", 1)

    async def greeting(token: str, **options: Any) -> str:
        protocols = [websockets.Subprotocol("prefect")]
        async with websockets.connect(url, subprotocols=protocols, **options) as socket:
            await socket.send(json.dumps({"type": "auth", "token": token}))
            return str(json.loads(await asyncio.wait_for(socket.recv(), 10))["type"])

    pair = servers.credentials.pair
    assert asyncio.run(greeting(pair)) == "auth_success"
    assert asyncio.run(greeting(pair, origin=servers.parts["prefect"].url or "")) == "auth_success"
    with pytest.raises(websockets.InvalidStatus, match="403"):
        asyncio.run(greeting(pair, origin="http://evil.example"))
    with pytest.raises(websockets.ConnectionClosed):
        asyncio.run(greeting("wrong"))


def test_mlflow_promotes_for_who_logs_in(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(servers.parts["mlflow"].url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for variable in servers.credentials.of_mlflow:
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(MlflowException, match="log in as mixllm"):
        client.create_registered_model("router")
    for variable, value in servers.credentials.of_mlflow.items():
        monkeypatch.setenv(variable, value)
    client.create_registered_model("router")
    client.create_model_version("router", "s3://nowhere/router")
    client.set_registered_model_alias("router", "champion", "1")
    assert client.get_model_version_by_alias("router", "champion").version == "1"


def test_evidently_shows_its_projects_and_makes_none_for_others(servers: Servers) -> None:
    with servers.client("evidently") as client:
        body = {"name": "evil"}
        for headers in (FOREIGN, REBOUND):
            assert client.post("/api/projects", json=body, headers=headers).status_code == 403
        assert [project["name"] for project in client.get("/api/projects").json()] == ["kept"]


def test_what_the_parts_write_is_private(servers: Servers) -> None:
    open_to_others = [path for path in servers.home.rglob("*") if path.lstat().st_mode & 0o077]
    assert open_to_others == []
