"""Fixtures that every test shares: one exported encoder, one simulated release, one Postgres."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from infra.database import connect, database_address
from infra.embedded_postgres import embedded_postgres
from infra.file_lock import FileLock
from infra.registry.registry import Registry
from infra.settings import Settings
from infra.training.encoder_store import prepared_encoder
from models.data.evaluation_set import EvaluationSet
from models.data.simulated import simulated_evaluation_set
from models.domains.domains import Domains
from models.domains.tagged_queries import TaggedQueries, tagged_queries
from models.domains.taggers import KeyphraseTagger
from models.encoder.cache import EmbeddingCache
from models.encoder.inputs import QueryInputs, read_queries
from models.encoder.onnx import OnnxEncoder, encoder_digest
from models.evaluation.fitted_router import FittedRouter
from models.predictors.fitting import Fitted, fit_predictors
from models.predictors.predictor import Predictor
from models.release.build import build_release
from models.release.probes import PROBES
from monitoring.store.schema import migrate

MadeOnce = Callable[[str, Callable[[Path], object]], Path]
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# Side by side, workers share the cores: threads of each would wait for those of the others.
if "PYTEST_XDIST_WORKER" in os.environ:
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MIXLLM_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Folders that one worker makes and all use. Copy them before changing them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        lock = FileLock(shared / f"{name}.lock")
        lock.take(wait=True)
        try:
            folder = shared / name
            if not folder.exists():
                part = shared / f"{name}.part"
                part.mkdir()
                make(part)
                part.rename(folder)
            return folder
        finally:
            lock.release()

    return made


@pytest.fixture(scope="session")
def machine_home(tmp_path_factory: pytest.TempPathFactory, made_once: MadeOnce) -> Path:
    """A home that holds the exported encoder and the embeddings of the session."""
    exported = made_once("exported", prepared_encoder)
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(exported, home, dirs_exist_ok=True, symlinks=True)
    return home


@pytest.fixture(scope="session")
def encoder_folder(machine_home: Path) -> Path:
    return prepared_encoder(machine_home)


@pytest.fixture(scope="session")
def new_registry(made_once: MadeOnce) -> Callable[[Path], Registry]:
    """Opens an empty registry in a home. MLflow takes seconds to make a database: it is made once."""

    def make(folder: Path) -> None:
        Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "registry").releases()

    template = made_once("mlflow", make) / "mlflow.db"

    def opened(home: Path) -> Registry:
        shutil.copy(template, home / "mlflow.db")
        return Registry(f"sqlite:///{home / 'mlflow.db'}", home / "registry")

    return opened


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> OnnxEncoder:
    return OnnxEncoder(encoder_folder, threads=2)


@pytest.fixture(scope="session")
def simulated() -> EvaluationSet:
    return simulated_evaluation_set(400, seed=1)


@pytest.fixture(scope="session")
def split(simulated: EvaluationSet) -> tuple[EvaluationSet, EvaluationSet]:
    return simulated.split()


@pytest.fixture(scope="session")
def train_inputs(
    split: tuple[EvaluationSet, EvaluationSet], encoder: OnnxEncoder, machine_home: Path
) -> QueryInputs:
    cache = EmbeddingCache(machine_home / "embeddings", encoder)
    return read_queries(split[0].queries["query"].tolist(), encoder, cache)


@pytest.fixture(scope="session")
def fitted(
    split: tuple[EvaluationSet, EvaluationSet], train_inputs: QueryInputs, encoder_folder: Path
) -> list[Fitted]:
    return fit_predictors(split[0], train_inputs, encoder_digest(encoder_folder))


@pytest.fixture(scope="session")
def predictors(fitted: list[Fitted]) -> list[Predictor]:
    return [found.predictor for found in fitted]


@pytest.fixture(scope="session")
def tagged(split: tuple[EvaluationSet, EvaluationSet], encoder: OnnxEncoder) -> TaggedQueries:
    queries = split[0].queries["query"].tolist()
    return tagged_queries(queries, KeyphraseTagger().fit(queries).tag(queries), encoder, count=8)


@pytest.fixture(scope="session")
def release_folder(made_once: MadeOnce, request: pytest.FixtureRequest) -> Path:
    """A release of the simulated set. Copy it before changing it."""

    def make(folder: Path) -> None:
        names = ("split", "train_inputs", "fitted", "tagged", "encoder_folder")
        make_release(folder / "release", *map(request.getfixturevalue, names))

    return made_once("made-release", make) / "release"


def make_release(
    folder: Path,
    split: tuple[EvaluationSet, EvaluationSet],
    train_inputs: QueryInputs,
    fitted: list[Fitted],
    tagged: TaggedQueries,
    encoder_folder: Path,
) -> None:
    shutil.copytree(encoder_folder, folder / "encoder")
    build_release(
        folder,
        FittedRouter.of(split[0], train_inputs, fitted),
        Domains().fit(train_inputs.embeddings, tagged.tags.tags, tagged.clusters),
        probes=split[0].queries["query"].tolist()[:PROBES],
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def postgres(machine_home: Path) -> str:
    """The address of an embedded Postgres server."""
    embedded_postgres(machine_home)
    return database_address(None, machine_home)


_numbers = itertools.count()


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    """The address of a database of the test's own."""
    name = f"test_{next(_numbers)}"
    admin = connect(postgres)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield admin.url.set(database=name).render_as_string(hide_password=False)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    """A migrated database of the test's own."""
    made = connect(empty_database)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def zeroeval() -> Path:
    return shared_set("zeroeval")


@pytest.fixture
def mmlu_pro() -> Path:
    return shared_set("mmlu_pro")


def shared_set(name: str) -> Path:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"the shared evaluation set {name} is not on this machine")
    return folder
