"""YAML without its traps, bounded."""

import os
from pathlib import Path

import pytest
import yaml

from models.catalog_file import read_catalog
from models.errors import CatalogError
from models.files.regular_file import UnusableFile
from models.files.yaml_file import MOST_BYTES, dump_yaml, parse_yaml

HARMLESS = """
- [no, yes, on, off, n, y, 010, 0o17, 0x1F, 1:30, 1_000, 2024-01-01, 1,5, =]
- [true, False, null, ~]
- [1e6, 1.5e-3, .5, -2, +3., 0]
"""


def test_only_plain_values_are_anything_but_text() -> None:
    text, words, numbers = parse_yaml(HARMLESS)
    assert text[:12] == HARMLESS.split("[")[1].split(", ")[:12]
    assert words == [True, False, None, None]
    assert numbers == [1e6, 1.5e-3, 0.5, -2, 3.0, 0]


TEXTS = [
    "no",
    "1e6",
    "010",
    "1:30",
    "2024-01-01",
    "0x1F",
    "~",
    "null",
    "é",
    "y",
    "=",
    "<<",
    "*a",
    "",
]


def test_every_reader_gets_back_what_is_written() -> None:
    data = {"llms": [{"name": text, "price": 1e-7} for text in TEXTS]}
    assert parse_yaml(dump_yaml(data)) == data
    assert [row["name"] for row in yaml.safe_load(dump_yaml(data))["llms"]] == TEXTS


def bomb(levels: int, width: int) -> str:
    lines = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(["l0: &l0 [x, x]", *lines])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is on line 1 already"),
        ("{x: {a: 1, a: 2}}", "line 1: the key 'a'"),
        ("a: &a [*a]", "line 1: an alias refers to itself"),
        ("a: &a {b: *a}", "line 1: an alias refers to itself"),
        (bomb(9, 10), "more than 50,000 values with aliases expanded"),
        (bomb(100, 1), "nested more than 50 deep"),
        ("[" * 300 + "]" * 300, "nested more than 50 deep"),
        ("- " * 300, "nested more than 50 deep"),
        ("{a: " * 60 + "}" * 60, "nested more than 50 deep"),
        ("? [1]\n: 2", "line 1: a key must be plain text"),
        ("--- 1\n--- 2", "not YAML: line 2"),
        ("a: [", "not YAML: line 1"),
        ("!!python/object/apply:os.system [x]", "not YAML: line 1"),
        ("a: !!int x", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
        ("!" * 10_000, "not YAML"),
    ],
)
def test_traps_and_bombs_are_refused(text: str, message: str) -> None:
    with pytest.raises(UnusableFile, match=message) as error:
        parse_yaml(text)
    assert len(str(error.value)) < 1000


def test_anchors_and_merges_stay() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


def test_catalogs_that_are_no_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    for make, message in (
        (lambda: os.mkfifo(path), "is a named pipe, not a regular file"),
        (lambda: path.symlink_to("/dev/zero"), "is a device, not a regular file"),
        (path.mkdir, "is a folder, not a regular file"),
        (lambda: path.write_bytes(b"x" * (MOST_BYTES + 1)), "at most 0.5 MiB are read"),
        (lambda: path.write_bytes(b"llms:\n- name: \xe9"), "line 2: byte 0xe9 is not UTF-8"),
        (lambda: path.write_bytes(b""), "expected a mapping"),
    ):
        make()
        with pytest.raises(CatalogError, match=message):
            read_catalog(path)
        path.rmdir() if path.is_dir() else path.unlink()
