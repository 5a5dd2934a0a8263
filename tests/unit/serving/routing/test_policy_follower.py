"""The policy state's copy on disk: whole or not used, and never in the way of Postgres."""

import contextlib
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infra.settings import Settings
from models.errors import PolicyError
from models.learning.policy_state import PolicyState
from monitoring.learning.policy_states import Stored

pytestmark = pytest.mark.filterwarnings("ignore:bentoml.metrics module:DeprecationWarning")
RELEASE = "a" * 64
CANDIDATES = ["x", "y"]


def state(release: str = RELEASE) -> PolicyState:
    parts = (
        np.eye(4, dtype=np.float32)[None],
        np.zeros(2, dtype=np.int64),
        np.stack([np.eye(5), np.eye(5)]),
    )
    compiled: Any = SimpleNamespace(candidates=CANDIDATES, uncertainty_parts=lambda: parts)
    return PolicyState.untaught(release, compiled)


@pytest.fixture
def follower(settings: Settings) -> Any:
    from serving.routing.policy_follower import PolicyFollower

    return PolicyFollower(settings, SimpleNamespace(running=None), lambda: None)  # type: ignore[arg-type, return-value]


def copies(follower: Any) -> list[Path]:
    return sorted(follower._folder.iterdir())


def read(follower: Any) -> int | None:
    stored = follower._from_disk(RELEASE, CANDIDATES)
    return None if stored is None else stored.version


def test_the_newest_whole_copy_is_read(follower: Any) -> None:
    for version in (9, 10, 11):
        follower._to_disk(Stored(version, state()))
    assert read(follower) == 11
    newest = copies(follower)[-1]
    newest.write_bytes(newest.read_bytes()[:-3])
    assert read(follower) == 10
    newest.write_bytes(b"")
    assert read(follower) == 10


def test_a_copy_with_one_bit_changed_is_not_used(follower: Any) -> None:
    follower._to_disk(Stored(3, state()))
    (path,) = copies(follower)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    assert read(follower) is None
    assert "not those that were written" in follower.last_error


@pytest.mark.parametrize(
    "name", ["{r}-x.safetensors", "{r}-.safetensors", "{r}-1-2-3.safetensors", "{r}--5.safetensors"]
)
def test_other_files_in_the_folder_stop_nothing(follower: Any, name: str) -> None:
    follower._to_disk(Stored(3, state()))
    (follower._folder / name.format(r=RELEASE[:32])).write_bytes(b"\x08\0\0\0\0\0\0\0[[[[[[[[")
    (follower._folder / f"{RELEASE[:32]}-000000000099.safetensors").mkdir()
    assert read(follower) == 3


def test_a_copy_of_an_earlier_version_is_read(follower: Any) -> None:
    follower._folder.mkdir(parents=True)
    (follower._folder / f"{RELEASE[:32]}-000000000007.safetensors").write_bytes(state().dump())
    assert read(follower) == 7


def test_the_running_release_s_copy_outlives_those_of_others(follower: Any) -> None:
    for version, letter in enumerate("fedcb", start=1):
        follower._to_disk(Stored(version, state(letter * 64)))
    follower._to_disk(Stored(6, state()))
    assert read(follower) == 6
    assert len(copies(follower)) == 4


def test_a_disk_that_takes_no_copy_stops_nothing(
    follower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower._to_disk(Stored(1, state()))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", full)
        follower._to_disk(Stored(2, state()))
    assert [path.suffix for path in copies(follower)] == [".safetensors"]
    assert read(follower) == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_bring_about_another_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(state().dump())
    for place in rng.integers(0, len(data) if seed % 2 else 600, size=3):
        data[int(place)] = int(rng.integers(256))
    with contextlib.suppress(PolicyError):
        PolicyState.parse(bytes(data))
