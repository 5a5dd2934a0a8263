"""Evaluation sets as files."""

from __future__ import annotations

import os
from pathlib import Path

from models.catalog_file import read_catalog
from models.data.evaluation_set import EvaluationSet
from models.data.tables.read import SUFFIXES, read_table_file
from models.data.validation import OUTCOME_COLUMNS, QUERY_COLUMNS, evaluation_set
from models.errors import EvaluationSetError


def read_evaluation_set(folder: Path, quarantine: Path | None = None) -> EvaluationSet:
    """Read a folder of ``queries`` and ``outcomes`` (Parquet, CSV or JSON Lines) and ``catalog.yaml``.

    quarantine: a file for bad rows (JSON Lines); without it, bad rows are an error.
    Raises EvaluationSetError or CatalogError.
    """
    if not folder.is_dir():
        raise EvaluationSetError(f"{folder}: {'not a' if folder.exists() else 'no such'} folder")
    queries = read_table_file(table_path(folder, "queries"), QUERY_COLUMNS)
    outcomes = read_table_file(table_path(folder, "outcomes"), OUTCOME_COLUMNS)
    catalog = read_catalog(folder / "catalog.yaml")
    return evaluation_set(queries, outcomes, catalog, folder.resolve().name, quarantine)


def table_path(folder: Path, stem: str) -> Path:
    """The one file of a folder that is ``<stem>.parquet``, ``.csv``, ``.jsonl``, or compressed."""
    there = [path for suffix in SUFFIXES if os.path.lexists(path := folder / f"{stem}{suffix}")]
    if not there:
        wanted = ", ".join(f"{stem}{suffix}" for suffix in SUFFIXES)
        raise EvaluationSetError(f"{folder}: has no {stem} file; name it one of {wanted}")
    if len(there) > 1:
        names = " and ".join(path.name for path in there)
        raise EvaluationSetError(f"{folder}: {names} are both there; keep one")
    return there[0]


def write_evaluation_set(data: EvaluationSet, folder: Path) -> None:
    """Write as Parquet and ``catalog.yaml``. Raises EvaluationSetError."""
    for stem in ("queries", "outcomes"):
        others = [f"{stem}{suffix}" for suffix in SUFFIXES if suffix != ".parquet"]
        in_the_way = [other for other in others if (folder / other).exists()]
        if in_the_way:
            raise EvaluationSetError(
                f"{folder}: {in_the_way[0]} is there; write the checked set to another folder"
            )
    outcomes = data.outcomes.astype({"prompt_tokens": "int64", "response_tokens": "int64"})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data.queries.to_parquet(folder / "queries.parquet", index=False)
        outcomes.to_parquet(folder / "outcomes.parquet", index=False)
        (folder / "catalog.yaml").write_text(data.catalog.dump_yaml(), encoding="utf-8")
    except OSError as error:
        raise EvaluationSetError(
            f"{folder}: cannot be written: {error.strerror or error}"
        ) from error
