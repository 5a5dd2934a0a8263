import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.registry.records import CHALLENGER, CHAMPION, PREVIOUS, ROUTER
from infra.registry.registry import Registry
from models.errors import DigestMismatch, NoRelease
from models.release.manifest import read_manifest
from models.release.release import Release


@pytest.fixture
def registry(tmp_path: Path, new_registry: Callable[[Path], Registry]) -> Registry:
    return new_registry(tmp_path)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    return folder


def register(registry: Registry, folder: Path, reports: Path, flow_run: str = "run-1") -> str:
    return registry.register_release(folder, {"data": "d"}, {"aiq": 0.5}, reports, flow_run)


def test_a_release_is_registered_fetched_and_routes_alike(
    registry: Registry, release_folder: Path, reports: Path
) -> None:
    version = register(registry, release_folder, reports)
    fetched = registry.fetch(version)
    here, there = Release.load(release_folder), Release.load(fetched)
    assert here.digest == there.digest
    assert there.manifest.encoder.version == "1"
    query = "Sort these words: b, a."
    assert here.route(query).decision.llm == there.route(query).decision.llm
    tags = registry.client.get_model_version(ROUTER, version).tags
    assert tags["data_digest"] == here.manifest.data.digest
    assert tags["flow_run"] == "run-1"
    assert registry.client.get_model_version("mixllm-predictor-sim-mini", "1").tags["digest"]


def test_a_part_that_did_not_change_keeps_its_version(
    registry: Registry, release_folder: Path, reports: Path, tmp_path: Path
) -> None:
    register(registry, release_folder, reports)
    changed = Path(shutil.copytree(release_folder, tmp_path / "changed"))
    predictor = changed / "predictors" / "sim-mini" / "predictor.json"
    predictor.write_text(predictor.read_text() + "\n")
    from models.predictors.predictor import FILES
    from models.release.manifest import pin

    manifest = read_manifest(changed)
    old = manifest.predictors["sim-mini"]
    new = pin(old.name, changed, old.folder, old.encoder, FILES)
    manifest.model_copy(update={"predictors": {**manifest.predictors, "sim-mini": new}}).write(
        changed
    )
    second = read_manifest(registry.fetch(register(registry, changed, reports, "run-2")))
    versions = {llm: part.version for llm, part in second.predictors.items()}
    assert versions.pop("sim-mini") == "2"
    assert set(versions.values()) == {"1"}
    assert second.encoder.version == "1"


def test_a_retried_flow_run_registers_once(
    registry: Registry, release_folder: Path, reports: Path
) -> None:
    first = register(registry, release_folder, reports, "run-1")
    assert register(registry, release_folder, reports, "run-1") == first
    assert register(registry, release_folder, reports, "run-2") != first


def test_promotion_and_rollback_move_the_aliases(
    registry: Registry, release_folder: Path, reports: Path
) -> None:
    one, two = (register(registry, release_folder, reports, run) for run in ("run-1", "run-2"))
    assert registry.alias(CHAMPION) is None
    with pytest.raises(NoRelease, match="no release was champion before"):
        registry.rollback()
    registry.promote(one)
    registry.challenge(two)
    registry.promote(two)
    aliases = [registry.alias(a) for a in (CHAMPION, PREVIOUS, CHALLENGER)]
    assert aliases == [two, one, None]
    assert registry.rollback() == one
    assert [registry.alias(a) for a in (CHAMPION, PREVIOUS)] == [one, two]
    assert [row.version for row in registry.releases()] == [two, one]
    assert registry.releases()[1].aliases == (CHAMPION,)


def test_an_unknown_release_is_named(
    registry: Registry, release_folder: Path, reports: Path
) -> None:
    with pytest.raises(NoRelease, match="no release '7' in MLflow; known: none yet"):
        registry.promote("7")
    register(registry, release_folder, reports)
    with pytest.raises(NoRelease, match="no release '7' in MLflow; known: 1"):
        registry.promote("7")
    with pytest.raises(NoRelease, match="no release '7' in MLflow"):
        registry.fetch("7")


def test_an_artifact_changed_in_the_store_is_refused(
    registry: Registry, release_folder: Path, reports: Path
) -> None:
    version = register(registry, release_folder, reports)
    (path,) = registry.home.glob("artifacts/**/sim-mini/predictor.json")
    path.write_text(path.read_text().replace("sim-mini", "sim-evil"))
    with pytest.raises(DigestMismatch, match=r"predictor\.json"):
        registry.fetch(version)
    assert not (registry.home / "releases" / version).exists()


def test_a_rollback_is_not_stopped_by_what_the_old_release_was_judged_since(
    registry: Registry, release_folder: Path, reports: Path
) -> None:
    one = register(registry, release_folder, reports)
    two = register(registry, release_folder, reports, "run-2")
    registry.promote(one)
    registry.promote(two)
    registry.note_evaluation(one, "gate", [], {"gate.verdict": "refused", "gate.why": "slower"})
    assert registry.refused(one) == "slower"
    assert registry.rollback() == one
    assert registry.refused(one) is None


def test_a_page_of_mlflow_is_named_without_the_login_of_its_server(tmp_path: Path) -> None:
    """The address goes into tables, mails and webhooks."""
    registry = Registry("https://me:secret@mlflow.example/", tmp_path)
    registry.client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = registry.client
    client.create_registered_model(ROUTER)
    run = client.create_run("0").info
    client.create_model_version(ROUTER, "file:///nowhere", run.run_id)
    page = f"https://mlflow.example/#/experiments/0/runs/{run.run_id}/artifacts/drift/a.html"
    assert registry.artifact_page("1", "drift/a.html") == page
