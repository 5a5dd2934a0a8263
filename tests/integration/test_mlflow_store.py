"""Opening a fresh store of MLflow: at once in several processes, in a home of an odd name."""

import os
import subprocess
import sys
from pathlib import Path

from infra.registry.mlflow_store import LOCK_FILE, lock_of
from infra.settings import Settings

# Imports first, so that both open the store at the same moment.
OPEN = """
import sys
from pathlib import Path
from infra.registry.registry import Registry
print("imported", flush=True)
sys.stdin.readline()
registry = Registry(sys.argv[1], Path(sys.argv[2]))
print(registry.releases())
"""


def test_processes_that_open_a_fresh_store_at_once_make_its_tables_once(tmp_path: Path) -> None:
    """MLflow's own lock lies in the folder for temporary files, which need not be the same; and of
    plain SQLite addresses it makes the folder that their text names."""
    home = tmp_path / "a 100%25?"
    home.mkdir()
    uri = Settings(home=home).registry_uri
    opened = []
    for number in range(2):
        temporary = home / f"tmp{number}"
        temporary.mkdir()
        opened.append(
            subprocess.Popen(
                [sys.executable, "-c", OPEN, uri, str(home / "registry")],
                env={**os.environ, "TMPDIR": str(temporary)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in opened:
        assert process.stdout is not None
        assert process.stdout.readline() == "imported\n"
    for process in opened:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in opened]
    assert [(p.returncode, out) for p, (out, _) in zip(opened, said, strict=True)] == [
        (0, "[]\n")
    ] * 2, said
    assert [path.name for path in tmp_path.iterdir()] == [home.name]
    assert (home / "mlflow.db").is_file()


def test_every_address_has_its_lock(tmp_path: Path) -> None:
    file = tmp_path / "a%20b" / "mlflow.db"
    assert lock_of(Settings(home=file.parent).registry_uri, tmp_path) == Path(f"{file}.lock")
    for uri in ("postgresql://me@host/mlflow", "sqlite://", "databricks", str(tmp_path)):
        assert lock_of(uri, tmp_path) == tmp_path / LOCK_FILE
