"""The home folder is its user's alone."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.guard.credentials import FILE, ensure_credentials, read_credentials
from infra.permissions import close_home
from models.errors import SettingsError


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_home_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    close_home(home)
    (home / "file").write_text("")
    (home / "folder").mkdir()
    assert (mode(home), mode(home / "file"), mode(home / "folder")) == (0o700, 0o600, 0o700)


def test_a_home_that_was_open_is_closed_with_all_that_lies_in_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    home = tmp_path / "home"
    (home / "logs" / "old").mkdir(parents=True)
    (home / "logs" / "old" / "service.log").write_text("")
    (home / "program").write_text("")
    (home / "program").chmod(0o775)
    (home / "link").symlink_to(outside)
    (home / "gone").symlink_to("nowhere")
    home.chmod(0o777)
    close_home(home)
    assert mode(home) == mode(home / "logs") == mode(home / "logs" / "old") == 0o700
    assert mode(home / "logs" / "old" / "service.log") == 0o600
    assert mode(home / "program") == 0o700
    assert mode(outside) == 0o644, "what a link leads to is not in the home"


def test_a_folder_that_others_need_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (shared, tmp_path, Path("/")):
        before = mode(folder)
        with pytest.raises(SettingsError, match="choose a folder inside it"):
            close_home(folder)
        assert mode(folder) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, -1)
    with pytest.raises(SettingsError, match="belongs to another user"):
        close_home(home)


def test_credentials_are_made_once_and_kept_private(tmp_path: Path) -> None:
    made = ensure_credentials(tmp_path / "home")
    assert ensure_credentials(tmp_path / "home") == made == read_credentials(tmp_path / "home")
    assert ensure_credentials(tmp_path / "other") != made
    assert len(made.password) >= 32
    assert mode(tmp_path / "home" / FILE) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"user": "a", "password": ""}', '{"user": 1}'])
def test_credentials_that_cannot_be_read_are_not_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SettingsError, match=FILE):
        ensure_credentials(tmp_path)
    assert (tmp_path / FILE).read_text() == text
