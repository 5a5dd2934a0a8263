"""What answers while the registry changes, breaks or hangs: always a whole release."""

import gc
import json
import shutil
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from infra.registry.records import CHAMPION, PREVIOUS, ROUTER
from infra.registry.registry import Registry
from infra.settings import Settings
from models.catalog import Catalog
from models.release.manifest import read_manifest

if TYPE_CHECKING:
    from serving.routing.champion import Champion

# The service takes its metrics from BentoML, whose module warns.
pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")
UPSTREAM = {"base_url": "http://127.0.0.1:9/v1"}


@dataclass
class Scene:
    """Releases: 1 and 2 have upstreams, 3 has none, 4 has upstreams whose keys are not set."""

    registry: Registry
    champion: "Champion"

    def promote(self, version: str) -> None:
        """As in MLflow's pages: no gate, no order of steps."""
        self.registry.client.set_registered_model_alias(ROUTER, CHAMPION, version)

    def poll(self) -> str | None:
        self.champion.poll(self.registry)
        assert self.champion.running is None or self.champion.running.version.isdecimal()
        return self.champion.running.version if self.champion.running else None

    @property
    def error(self) -> str:
        return self.champion.last_error or ""


def champion_of(settings: Settings) -> "Champion":
    from serving.routing.champion import Champion

    return Champion(settings)


def with_upstreams(folder: Path, upstream: dict[str, str] | None, created: str) -> Path:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["catalog"]["llms"]:
        entry["upstream"] = upstream
    path.write_text(json.dumps({**manifest, "created": created}))
    return folder


@pytest.fixture(scope="module")
def registered(
    release_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    new_registry: Callable[[Path], Registry],
) -> Path:
    """A home with the releases registered. Copy it before using it."""
    home = tmp_path_factory.mktemp("registered")
    registry = new_registry(home)
    key = {**UPSTREAM, "key_variable": "NO_SUCH_KEY"}
    for number, upstream in enumerate((UPSTREAM, UPSTREAM, None, key), 1):
        folder = shutil.copytree(release_folder, home / f"made-{number}", symlinks=True)
        with_upstreams(folder, upstream, f"2026-01-0{number}")
        (home / "reports").mkdir(exist_ok=True)
        registry.register_release(folder, {}, {}, home / "reports", f"run-{number}")
        shutil.rmtree(folder)
    return home


@pytest.fixture
def scene(registered: Path, tmp_path: Path) -> Scene:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(registered / "mlflow.db", home / "mlflow.db")
    settings = Settings(home=home, poll_seconds=0.05)
    registry = Registry.of(settings)
    return Scene(registry, champion_of(settings))


def test_swaps_back_and_forth_leave_one_release_in_memory(scene: Scene) -> None:
    noted: list[str] = []
    scene.champion._note_loaded = lambda manifest, version: noted.append(version)
    loaded = []
    threads = threading.active_count()
    for version in ("1", "2", "1", "2", "1"):
        scene.promote(version)
        assert scene.poll() == version
        assert scene.poll() == version
        assert scene.champion.running is not None
        loaded.append(weakref.ref(scene.champion.running.release))
        assert scene.registry.alias(CHAMPION) == version
    gc.collect()
    assert [found() is not None for found in loaded] == [False] * 4 + [True]
    assert noted == ["1", "2", "1", "2", "1"]
    assert scene.registry.alias(PREVIOUS) == "2"
    assert threading.active_count() <= threads + 1
    assert scene.error == ""


def test_a_release_that_no_llm_can_be_called_of_is_not_loaded_where_chats_are_served(
    scene: Scene,
) -> None:
    scene.promote("1")
    assert scene.poll() == "1"
    for version, why in (("3", "none has an upstream"), ("4", "keys are not set: NO_SUCH_KEY")):
        scene.promote(version)
        assert scene.poll() == "1"
        assert f"release {version} is refused, release 1 keeps answering" in scene.error
        assert why in scene.error
        assert why in scene.registry.tags(version)["serving.refused"]
    scene.registry.force("3")
    scene.promote("3")
    assert scene.poll() == "1", "whoever forces a release cannot make its LLMs answer"


def test_who_only_routes_may_promote_releases_without_upstreams(scene: Scene) -> None:
    scene.promote("3")
    assert scene.poll() == "3"
    scene.promote("1")
    assert scene.poll() == "1"
    assert "serving.refused" not in scene.registry.tags("3")


def test_the_machines_catalog_makes_a_release_callable_and_the_disabled_do_not(
    scene: Scene, tmp_path: Path
) -> None:
    release = read_manifest(scene.registry.fetch("1")).catalog
    bare = Catalog(llms=read_manifest(scene.registry.fetch("3")).catalog.llms[:1])
    scene.promote("1")
    scene.poll()
    scene.champion.spare_catalog = Catalog(llms=release.llms[:1])
    scene.promote("3")
    assert scene.poll() == "3"
    scene.promote("1")
    assert scene.poll() == "1"
    scene.registry.set_disabled(bare.names)
    scene.promote("3")
    assert scene.poll() == "1"
    assert "chats would fail" in scene.error
    scene.registry.set_disabled(release.names)
    scene.champion._failed.clear()
    assert scene.poll() == "1"
    assert "every LLM of it is disabled" in scene.error


def test_a_release_that_its_gate_refused_does_not_answer_even_first(scene: Scene) -> None:
    tags = {"gate.verdict": "refused", "gate.why": "its AIQ is 0", "gate.number": "1"}
    scene.registry.note_evaluation("1", "gate", [], tags)
    scene.promote("1")
    assert scene.poll() is None
    assert "release 1 is refused, none answers: its gate: its AIQ is 0" in scene.error
    scene.registry.force("1")
    time.sleep(0.06)  # a refusal by the gate is looked at again at the next poll
    assert scene.poll() == "1"


def test_a_broken_release_leaves_the_running_one_and_says_why(scene: Scene) -> None:
    scene.promote("1")
    scene.poll()
    before = scene.champion.running
    scene.registry.client.set_model_version_tag(ROUTER, "2", "manifest_sha256", "0" * 64)
    scene.promote("2")
    assert scene.poll() == "1"
    assert scene.champion.running is before
    assert "manifest.json has sha256" in scene.error
    assert "manifest.json" in scene.registry.tags("2")["serving.refused"]
    scene.champion._failed.clear()
    scene.registry.client.delete_model_version_tag(ROUTER, "2", "manifest_sha256")
    assert scene.poll() == "1"
    assert "no tag manifest_sha256" in scene.error


def test_a_tampered_tag_of_the_running_release_keeps_its_copy_on_disk(scene: Scene) -> None:
    scene.promote("1")
    scene.poll()
    scene.registry.client.set_model_version_tag(ROUTER, "1", "manifest_sha256", "f" * 64)
    assert scene.poll() == "1"
    assert "its tag manifest_sha256 says" in scene.error
    again = champion_of(scene.champion.settings)
    again._load_last_run()
    assert again.running is not None
    assert again.running.version == "1"


def test_a_deleted_release_a_lost_alias_and_another_models_files(scene: Scene) -> None:
    scene.promote("1")
    scene.poll()
    client = scene.registry.client
    client.delete_registered_model_alias(ROUTER, CHAMPION)
    assert scene.poll() == "1"
    assert scene.error == "MLflow names no champion: release 1 keeps answering"
    # A version whose files are those of another registered model.
    other = client.get_model_version("mixllm-predictor-sim-mini", "1")
    made = client.create_model_version(ROUTER, other.source, other.run_id)
    client.set_model_version_tag(ROUTER, made.version, "manifest_sha256", "0" * 64)
    scene.promote(str(made.version))
    assert scene.poll() == "1"
    assert "a release has no such file" in scene.error
    client.delete_model_version(ROUTER, "1")
    scene.promote("2")
    assert scene.poll() == "2"
    assert scene.error == ""


def test_what_is_noted_and_cannot_be_leaves_nothing_half_loaded(scene: Scene) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    scene.champion._note_loaded = full
    scene.promote("1")
    assert scene.poll() == "1"
    assert scene.champion.running is not None
    assert set(scene.champion.upstreams) == set(scene.champion.running.release.candidates)
    assert scene.error == ""


@pytest.mark.parametrize("text", ["", "../../etc", "1\n2", "\x00", "9" * 200, "999"])
def test_a_marker_that_names_no_release_stops_no_start(text: str, tmp_path: Path) -> None:
    home = tmp_path / "registry"
    home.mkdir()
    (home / "current-release").write_text(text)
    settings = Settings(home=tmp_path, mlflow_uri="http://127.0.0.1:9", poll_seconds=30)
    champion = champion_of(settings)
    champion.start()
    try:
        assert champion.running is None
        assert champion.last_error
    finally:
        champion.stop()


def test_a_registry_that_is_away_keeps_the_disabled_disabled(scene: Scene) -> None:
    scene.registry.set_disabled(["sim-mini"])
    scene.promote("1")
    scene.poll()
    assert scene.champion.disabled == {"sim-mini"}
    scene.registry.client.set_registered_model_tag(ROUTER, "disabled", "{not JSON")
    assert scene.poll() == "1"
    assert scene.champion.disabled == {"sim-mini"}
    assert "disabled" in scene.error
    again = champion_of(
        Settings(home=scene.champion.settings.home, mlflow_uri="http://127.0.0.1:9")
    )
    again.start()
    try:
        assert again.running is not None
        assert again.disabled == {"sim-mini"}
    finally:
        again.stop()


def test_a_registry_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and never answers
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = Settings(home=tmp_path, mlflow_uri=uri)
        champion = champion_of(settings)
        begun = time.monotonic()
        champion.poll(Registry(uri, tmp_path / "registry"))
        assert time.monotonic() - begun < 15
    assert "registry: MLflow at http://127.0.0.1" in (champion.last_error or "")


def test_the_store_is_asked_what_it_holds_before_anything_is_downloaded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = scene.registry.client.get_model_version_download_uri(ROUTER, "1")
    folder = Path(get_artifact_repository(source).artifact_dir)
    extra = folder / "surprise.bin"
    extra.write_bytes(b"x")
    try:
        scene.promote("1")
        assert scene.poll() is None
        assert "surprise.bin: a release has no such file" in scene.error
    finally:
        extra.unlink()
    link = folder / "probes" / "link.json"
    link.symlink_to("/etc/passwd")
    try:
        scene.champion._failed.clear()
        assert scene.poll() is None
        assert "a release has no links" in scene.error
    finally:
        link.unlink()
    scene.champion._failed.clear()
    assert scene.poll() == "1"
