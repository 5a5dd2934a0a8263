"""The home folder: made, or refused with a reason."""

from pathlib import Path

import pytest

from infra.home import ready_home
from infra.settings import read_settings
from models.errors import SettingsError


@pytest.mark.parametrize("name", ["new", "a/b/c", "a b", "100%", "ünï 'q' \"r\"", "x" * 200])
def test_a_home_is_made(name: str, tmp_path: Path) -> None:
    home = ready_home(tmp_path / name)
    assert home.is_dir()
    assert home.stat().st_mode & 0o777 == 0o700
    assert list(home.iterdir()) == []
    assert ready_home(home) == home


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match=r"MIXLLM_HOME: .*file is a file, not a folder"):
            ready_home(home)


def test_a_home_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"MIXLLM_HOME: /proc/.* cannot be written to \("):
        ready_home(Path("/proc/mixllm"))


def test_control_characters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be printed"):
        ready_home(tmp_path / "two\nlines")


def test_a_symlink_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path / "link"))
    assert read_settings().home == tmp_path / "folder"
    assert ready_home(read_settings().home).is_dir()


@pytest.mark.parametrize("value", ["", "  ", "~nobody-of-this-name/home"])
def test_a_path_that_leads_nowhere_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXLLM_HOME", value)
    with pytest.raises(SettingsError, match="MIXLLM_HOME"):
        read_settings()


def test_symlinks_in_a_circle_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path / "a"))
    with pytest.raises(SettingsError, match="leads nowhere"):
        read_settings()
