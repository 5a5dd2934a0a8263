"""What the commands work on."""

from pathlib import Path

import pytest

from models.data.evaluation_set import EvaluationSet
from models.data.files import write_evaluation_set


@pytest.fixture(scope="module")
def home(machine_home: Path, encoder_folder: Path) -> Path:
    """The session's home, whose encoder is exported already."""
    return machine_home


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, simulated: EvaluationSet) -> Path:
    folder = tmp_path_factory.mktemp("data") / "small"
    write_evaluation_set(simulated, folder)
    return folder
