"""Evaluation sets: queries, the outcomes of named LLMs on them, and the catalog."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pa

from models import cells
from models.catalog import Catalog, read_catalog
from models.digest import digest_bytes, digest_json
from models.errors import EvaluationSetError, nearest
from models.raw_table import SUFFIXES, RawTable, as_written, read_table_file

QUERY_COLUMNS: Final = ("query_id", "query", "source")
NUMBER_COLUMNS: Final = (
    "quality",
    "prompt_tokens",
    "response_tokens",
    "cost_usd",
    "latency_seconds",
)
OUTCOME_COLUMNS: Final = ("query_id", "llm", *NUMBER_COLUMNS)
MEASURED_COLUMNS: Final = ("cost_usd", "latency_seconds")
PROBLEM_COLUMNS: Final = ("table", "index", "column", "problem")
NOT_IN_CATALOG: Final = "is not in the catalog"
UNKNOWN_SOURCE: Final = "unknown"
# A candidate must have outcomes for this share of the training and of the test queries to compete.
COVERAGE: Final = 0.99
# No LLM reads or writes more; a larger figure is of another column, and would not fit an integer.
MOST_TOKENS: Final = 1e9
# USD and seconds of one answer; a larger figure is of another unit.
MOST_MEASURED: Final = 1e6
# Of a message: kinds of problem, and characters of a value.
MOST_PROBLEMS: Final = 20
MOST_SHOWN: Final = 80


@dataclass(frozen=True)
class EvaluationSet:
    """Validated queries and outcomes.

    queries: query_id, query, source; one row a query, in the file's order.
    outcomes: query_id, llm, quality in [0, 1], prompt_tokens, response_tokens, cost_usd (measured,
    or from the catalog's prices), latency_seconds (NaN where not measured); one row a (query, llm).
    """

    queries: pd.DataFrame
    outcomes: pd.DataFrame
    catalog: Catalog
    name: str = "evaluation set"
    quarantined: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        """The content's identity: queries, outcomes and catalog, whatever the file format."""
        parts = [digest_json(self.catalog.model_dump(exclude={"llms": {"__all__": {"upstream"}}}))]
        for table in (self.queries, self.outcomes):
            hashes = pd.util.hash_pandas_object(table, index=False).to_numpy()
            parts.append(digest_bytes(np.ascontiguousarray(hashes).tobytes()))
        return digest_json(parts)

    @property
    def candidates(self) -> list[str]:
        """Candidates of the catalog with at least one outcome, in the catalog's order."""
        seen = set(self.outcomes["llm"])
        return [name for name in self.catalog.names if name in seen]

    def matrix(self, column: str, candidates: list[str] | None = None) -> np.ndarray:
        """One outcome column as (queries, candidates) float64; NaN where there is no outcome."""
        names = self.candidates if candidates is None else candidates
        wide = self.outcomes.pivot(index="query_id", columns="llm", values=column)
        wide = wide.reindex(index=self.queries["query_id"], columns=names)
        return wide.to_numpy(dtype=np.float64)

    def where(self, keep: np.ndarray) -> EvaluationSet:
        """The set with only the queries that a boolean mask keeps."""
        queries = self.queries.loc[keep].reset_index(drop=True)
        inside = self.outcomes["query_id"].isin(queries["query_id"])
        return EvaluationSet(
            queries=queries,
            outcomes=self.outcomes.loc[inside].reset_index(drop=True),
            catalog=self.catalog,
            name=self.name,
            notes=self.notes,
        )

    def split(self) -> tuple[EvaluationSet, EvaluationSet]:
        """The standard split: (training set, test set)."""
        test = self.queries["query_id"].map(is_test_query).to_numpy(dtype=bool)
        if not test.any() or test.all():
            raise EvaluationSetError(
                f"{self.name}: the standard split of its {len(test)} queries leaves "
                f"{int((~test).sum())} for training and {int(test.sum())} for testing; "
                "more queries are needed, or --test-data"
            )
        return self.where(~test), self.where(test)


def is_test_query(query_id: str) -> bool:
    """The standard split's rule: one query in five, by its id alone."""
    return int(hashlib.sha256(query_id.encode()).hexdigest()[:8], 16) % 5 == 0


def comparable(
    train: EvaluationSet, test: EvaluationSet
) -> tuple[list[str], EvaluationSet, list[str]]:
    """The coverage rule: (candidates that compete, test queries all of them answered, notes).

    Left out: a candidate with outcomes for under 99 % of the training or of the test queries, then
    test queries that lack an outcome of a remaining candidate.
    """
    notes, kept = [], []
    for name in train.catalog.names:
        shares = [
            (part.outcomes["llm"] == name).sum() / max(len(part.queries), 1)
            for part in (train, test)
        ]
        if min(shares) >= COVERAGE:
            kept.append(name)
        else:
            notes.append(
                f"left out candidate {name}: outcomes for {shares[0]:.1%} of the training and "
                f"{shares[1]:.1%} of the test queries (under {COVERAGE:.0%})"
            )
    if len(kept) < 2:
        raise EvaluationSetError(
            f"{len(kept)} of the {len(train.catalog.names)} LLMs of the catalog have outcomes for "
            f"{COVERAGE:.0%} of the training and of the test queries, at least 2 must; "
            + "; ".join(notes or ["add another LLM and its outcomes"])
        )
    whole = ~np.isnan(test.matrix("quality", kept)).any(axis=1)
    if not whole.all():
        dropped = int((~whole).sum())
        notes.append(f"left out {dropped} test queries that lack an outcome of a candidate")
    if not whole.any():
        raise EvaluationSetError("no test query has an outcome of every candidate")
    return kept, test.where(whole), notes


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


def validate(
    queries: pd.DataFrame,
    outcomes: pd.DataFrame,
    catalog: Catalog,
    name: str = "evaluation set",
    quarantine: Path | None = None,
) -> EvaluationSet:
    """Check data frames against the format; see ``read_evaluation_set``."""
    return evaluation_set(
        RawTable.of(queries, "queries"),
        RawTable.of(outcomes, "outcomes"),
        catalog,
        name,
        quarantine,
    )


def evaluation_set(
    queries: RawTable, outcomes: RawTable, catalog: Catalog, name: str, quarantine: Path | None
) -> EvaluationSet:
    """Check tables as they were read against the format; see ``read_evaluation_set``."""
    clean = checked(queries, outcomes, catalog.names, name, quarantine)
    notes = [*unknown_columns(queries, QUERY_COLUMNS), *unknown_columns(outcomes, OUTCOME_COLUMNS)]
    return clean.priced(catalog, name, notes)


def unknown_columns(table: RawTable, known: Sequence[str]) -> list[str]:
    """A note on columns that the format does not have."""
    unknown = [column for column in table.columns if column not in known]
    absent = [column for column in known if column not in table.columns]
    notes = []
    if unknown:
        close = {c: difflib.get_close_matches(c, absent, n=1, cutoff=0.7) for c in unknown[:20]}
        shown = [f"{c} (did you mean {near[0]!r}?)" if near else c for c, near in close.items()]
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        notes.append(f"{table.file}: columns not used: {', '.join(shown)}{more}")
    return notes


@dataclass(frozen=True)
class CheckedTables:
    """Typed tables without bad rows. quarantined: how many were set aside in quarantine."""

    queries: pd.DataFrame
    outcomes: pd.DataFrame
    quarantined: int
    quarantine: Path | None

    def priced(self, catalog: Catalog, name: str, notes: Sequence[str] = ()) -> EvaluationSet:
        """The evaluation set, with costs from the catalog's prices where none was measured."""
        count = self.quarantined
        aside = (f"{rows_text(count)} set aside in {self.quarantine}",) if count else ()
        answering = set(self.outcomes["llm"])
        silent = [llm for llm in catalog.names if llm not in answering]
        if silent:
            notes = [*notes, f"in the catalog without any outcome: {', '.join(silent)}"]
        return EvaluationSet(
            queries=self.queries.reset_index(drop=True),
            outcomes=complete(self.outcomes, catalog).reset_index(drop=True),
            catalog=catalog,
            name=name,
            quarantined=count,
            notes=(*aside, *notes),
        )


def rows_text(count: int) -> str:
    return f"{count} bad row" if count == 1 else f"{count} bad rows"


def checked(
    queries: RawTable,
    outcomes: RawTable,
    names: Sequence[str],
    name: str,
    quarantine: Path | None,
) -> CheckedTables:
    """Convert and check both tables. names: the LLMs that may have outcomes.

    Raises EvaluationSetError for bad rows, unless quarantine is a file for them.
    """
    for table, required in ((queries, QUERY_COLUMNS[:2]), (outcomes, OUTCOME_COLUMNS[:5])):
        require(table, required)
    raw = {"queries": queries, "outcomes": outcomes}
    asked, bad = typed(queries, QUERY_COLUMNS, "queries")
    answered, more = typed(outcomes, OUTCOME_COLUMNS, "outcomes")
    asked["query_id"], answered["query_id"] = aligned(asked["query_id"], answered["query_id"])
    waiting = pd.concat([bad, more], ignore_index=True)
    unread = sum(len(table.bad) for table in raw.values())
    aside: list[dict[str, Any]] = []
    count = 0
    while True:
        found = broken_rules(asked, answered, names, waiting)
        if found.empty and not unread:
            break
        if quarantine is None:
            shown = with_places(found, raw)
            raise EvaluationSetError(summary(shown, name, names), problems=shown)
        count += unread + int(found[["table", "index"]].drop_duplicates().shape[0])
        aside += records(found, raw, unread > 0)
        asked = asked.loc[~asked.index.isin(found.loc[found["table"] == "queries", "index"])]
        gone = found.loc[found["table"] == "outcomes", "index"]
        answered = answered.loc[~answered.index.isin(gone)]
        waiting, unread = waiting.iloc[:0], 0
    if aside:
        write_quarantine(aside, quarantine)
    if asked.empty:
        why = f"no query is left after {rows_text(count)} set aside" if count else "has no queries"
        raise EvaluationSetError(f"{name}: {why}")
    return CheckedTables(asked, answered, count, quarantine)


def require(table: RawTable, columns: Sequence[str]) -> None:
    """Raises EvaluationSetError for a column that is missing, or a table without rows."""
    if not len(table) and table.bad:
        first = table.bad[0]
        rows = "the one row" if len(table.bad) == 1 else f"none of {len(table.bad)} rows"
        raise EvaluationSetError(
            f"{table.file} line {first.place}: {first.problem} "
            f"({rows} {'cannot' if len(table.bad) == 1 else 'can'} be read)"
        )
    for column in columns:
        if column not in table.columns:
            known = list(table.columns)
            hint = nearest(column, known) if known else "it has no columns"
            raise EvaluationSetError(f"{table.file}: column {column!r} is missing; {hint}")
    if not len(table):
        raise EvaluationSetError(f"{table.file}: has no rows")


def typed(table: RawTable, columns: Sequence[str], name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(the known columns in fixed types, what could not be converted: table, index, column,
    problem)."""
    out = pd.DataFrame(index=pd.RangeIndex(len(table)))
    problems: list[tuple[str, int, str, str]] = []
    for column in columns:
        values = table.columns.get(column)
        if values is None:
            out[column] = UNKNOWN_SOURCE if column == "source" else np.nan
            continue
        converted, bad = cells.convert(values, CELLS[column], column in NUMBER_COLUMNS)
        out[column] = converted if column in NUMBER_COLUMNS else pd.Series(converted, dtype=object)
        problems += [(name, index, column, why) for index, why in bad]
    return out, pd.DataFrame(problems, columns=list(PROBLEM_COLUMNS))


def source_cell(value: Any) -> str:
    """A source's name; ``unknown`` where none is given."""
    return UNKNOWN_SOURCE if value is None or value == "" or value != value else cells.text(value)


CELLS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "query_id": cells.text,
    "llm": cells.text,
    "query": cells.query,
    "source": source_cell,
    "quality": cells.quality,
    "prompt_tokens": cells.number,
    "response_tokens": cells.number,
    "cost_usd": cells.measured,
    "latency_seconds": cells.measured,
}


def aligned(asked: pd.Series, answered: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Ids that match: a whole-number column that passed through floats in one table reads "1.0"
    where the other reads "1". Ids that match as written stay."""
    known = set(asked.dropna())
    if known.issuperset(answered.dropna()):
        return asked, answered
    whole = cells.as_integers(asked.tolist())
    if asked.notna().any() and all(a != w for a, w in zip(asked, whole, strict=True) if a):
        asked = pd.Series(whole, index=asked.index, dtype=object)
        known = set(whole)
    ids = answered.tolist()
    mapped = [
        w if i not in known and w in known else i
        for i, w in zip(ids, cells.as_integers(ids), strict=True)
    ]
    return asked, pd.Series(mapped, index=answered.index, dtype=object)


def check(test: Any, message: str) -> pa.Check:
    return pa.Check(test, error=message)


def broken_rules(
    queries: pd.DataFrame, outcomes: pd.DataFrame, names: Sequence[str], unconverted: pd.DataFrame
) -> pd.DataFrame:
    """Every broken rule: table, index, column, problem. unconverted: those that are known already,
    in cells which are empty here."""
    answered, asked = set(outcomes["query_id"].dropna()), set(queries["query_id"].dropna())
    tokens = pa.Column(
        float,
        [
            check(lambda s: s >= 0, "is negative"),
            check(lambda s: s % 1 == 0, "is not whole"),
            check(lambda s: s <= MOST_TOKENS, "is more tokens than an LLM reads or writes"),
        ],
        nullable=True,
    )
    quality = [
        check(lambda s: s >= 0, "is outside [0, 1]"),
        check(
            lambda s: s <= 1,
            "is outside [0, 1]; of a scale to 100, divide or write it as a percentage",
        ),
    ]
    measured = [
        check(lambda s: s >= 0, "is negative"),
        check(lambda s: s <= MOST_MEASURED, "is too large to be the cost or time of an answer"),
    ]
    query_id = [
        check(lambda s: ~s.duplicated(), "is listed twice"),
        check(lambda s: s.isin(answered), "has no outcomes"),
    ]
    query_schema = {"query_id": pa.Column(object, query_id, nullable=True)}
    outcome_schema = {
        "query_id": pa.Column(
            object, check(lambda s: s.isin(asked), "is not among the queries"), nullable=True
        ),
        "llm": pa.Column(object, check(lambda s: s.isin(names), NOT_IN_CATALOG), nullable=True),
        "quality": pa.Column(float, quality, nullable=True),
        "prompt_tokens": tokens,
        "response_tokens": tokens,
        **{column: pa.Column(float, measured, nullable=True) for column in MEASURED_COLUMNS},
        "pair": pa.Column(bool, check(lambda s: ~s, "is listed twice")),
    }
    twice = outcomes.duplicated(["query_id", "llm"])
    whole = outcomes["query_id"].notna() & outcomes["llm"].notna()
    found = [
        unconverted,
        failures("queries", pa.DataFrameSchema(query_schema), queries),
        failures(
            "outcomes", pa.DataFrameSchema(outcome_schema), outcomes.assign(pair=twice & whole)
        ),
    ]
    return pd.concat([rows for rows in found if not rows.empty] or [unconverted], ignore_index=True)


def failures(table: str, schema: pa.DataFrameSchema, frame: pd.DataFrame) -> pd.DataFrame:
    """One table's broken rules, as Pandera reports them."""
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.assign(table=table, problem=error.failure_cases["check"])
        unplaced = cases[cases["index"].isna()]
        if not unplaced.empty:  # a rule that could not be applied is a bug of ours, not a bad row
            raise EvaluationSetError(f"{table}: {unplaced['problem'].iloc[0]}") from error
        found: pd.DataFrame = cases[list(PROBLEM_COLUMNS)].drop_duplicates()
        return found
    return pd.DataFrame(columns=list(PROBLEM_COLUMNS))


def listed(found: pd.DataFrame) -> list[tuple[str, int, str, str]]:
    """(table, index, column, problem) of each."""
    return list(zip(*(found[column].tolist() for column in PROBLEM_COLUMNS), strict=True))


def with_places(found: pd.DataFrame, raw: Mapping[str, RawTable]) -> pd.DataFrame:
    """Problems with file, place, column and value as the file has them."""
    rows: list[tuple[Any, ...]] = []
    for table, index, column, problem in listed(found):
        source = raw[table]
        value = None if column == "pair" else as_written(source.columns[column][index])
        shown = "query_id, llm" if column == "pair" else source.shown(column, index)
        rows.append((source.file, source.unit, source.places[index], shown, problem, value))
    rows += [
        (table.file, table.unit, bad.place, None, bad.problem, None)
        for table in raw.values()
        for bad in table.bad
    ]
    return pd.DataFrame(rows, columns=["file", "unit", "place", "column", "problem", "value"])


def summary(found: pd.DataFrame, name: str, names: Sequence[str]) -> str:
    """One line a kind of problem: where, what, how many."""
    lines: dict[tuple[Any, ...], list[dict[Any, Any]]] = {}
    for row in found.astype(object).to_dict("records"):
        # Each unknown LLM is a problem of its own; wrong numbers differ row by row.
        kind = row["value"] if row["problem"] == NOT_IN_CATALOG else None
        lines.setdefault((row["file"], row["column"], row["problem"], kind), []).append(row)
    written = []
    for rows in list(lines.values())[:MOST_PROBLEMS]:
        first = rows[0]
        column = "" if first["column"] is None else f", column {first['column']!r}"
        value = "" if first["value"] in (None, "") else f" {clipped(first['value'])}"
        hint = ""
        if first["problem"] == NOT_IN_CATALOG:
            hint = f"; {nearest(str(first['value']).strip(), names)}"
        count = f"{len(rows)} rows in all" if len(rows) > 1 else "1 row"
        place = f"{first['file']} {first['unit']} {first['place']}{column}"
        written.append(f"{place}:{value} {first['problem']}{hint} ({count})")
    if len(lines) > MOST_PROBLEMS:
        written.append(f"and {len(lines) - MOST_PROBLEMS} more kinds of problem")
    bad = int(found[["file", "place"]].drop_duplicates().shape[0])
    return (
        f"{name}: {rows_text(bad)}:\n  "
        + "\n  ".join(written)
        + "\nfix them, or set them aside with --quarantine FILE"
    )


def clipped(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"


def records(found: pd.DataFrame, raw: Mapping[str, RawTable], unread: bool) -> list[dict[str, Any]]:
    """What the quarantine file says of each problem, the row as written with it. unread: whether
    rows that could not be read are among them."""
    rows = []
    for table, index, column, problem in listed(found):
        source = raw[table]
        place = {"file": source.file, source.unit: int(source.places[index])}
        if column == "pair":
            named: dict[str, Any] = {"column": "query_id, llm"}
        else:
            value = as_written(source.columns[column][index])
            named = {"column": source.shown(column, index), "value": value}
        rows.append({**place, **named, "problem": problem, "content": source.content(index)})
    for source in raw.values() if unread else ():
        rows += [
            {"file": source.file, source.unit: b.place, "problem": b.problem, "content": b.content}
            for b in source.bad
        ]
    return rows


def write_quarantine(rows: Sequence[Mapping[str, Any]], path: Path | None) -> None:
    """Write bad rows as JSON Lines, replacing the file. Raises EvaluationSetError."""
    if path is None:
        raise ValueError("quarantine needs a path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise EvaluationSetError(f"{path}: cannot be written: {error.strerror or error}") from error


def complete(outcomes: pd.DataFrame, catalog: Catalog) -> pd.DataFrame:
    """Fill cost_usd from the catalog's prices where it was not measured."""
    prices = {c.name: (c.input_price / 1e6, c.output_price / 1e6) for c in catalog.llms}
    input_price = outcomes["llm"].map(lambda name: prices[name][0]).astype(float)
    output_price = outcomes["llm"].map(lambda name: prices[name][1]).astype(float)
    by_price = outcomes["prompt_tokens"] * input_price + outcomes["response_tokens"] * output_price
    return outcomes.assign(cost_usd=outcomes["cost_usd"].fillna(by_price))


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
