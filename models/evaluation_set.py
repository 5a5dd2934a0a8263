"""Evaluation sets: queries, the outcomes of named LLMs on them, and the catalog."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pa

from models.catalog import Catalog, read_catalog
from models.digest import digest_bytes, digest_json
from models.errors import EvaluationSetError, nearest

SUFFIXES: Final = (".parquet", ".csv", ".jsonl")
TEXT_COLUMNS: Final = ("query_id", "query", "source", "llm")
NUMBER_COLUMNS: Final = (
    "quality",
    "prompt_tokens",
    "response_tokens",
    "cost_usd",
    "latency_seconds",
)
MEASURED_COLUMNS: Final = ("cost_usd", "latency_seconds")
UNKNOWN_SOURCE: Final = "unknown"
# A candidate must have outcomes for this share of the training and of the test queries to compete.
COVERAGE: Final = 0.99


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
            "fewer than two candidates have outcomes for 99 % of the training and of the test "
            f"queries; {'; '.join(notes)}"
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
        raise EvaluationSetError(f"{folder}: no such folder")
    return validate(
        read_table(folder, "queries"),
        read_table(folder, "outcomes"),
        read_catalog(folder / "catalog.yaml"),
        name=folder.resolve().name,
        quarantine=quarantine,
    )


def read_table(folder: Path, stem: str) -> pd.DataFrame:
    """Read ``<stem>.parquet``, ``.csv`` or ``.jsonl`` of a folder."""
    found = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if not found:
        wanted = ", ".join(f"{stem}{suffix}" for suffix in SUFFIXES)
        raise EvaluationSetError(f"{folder}: none of {wanted} is there")
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise EvaluationSetError(f"{folder}: {names} are both there; keep one")
    return read_frame(found[0])


def read_frame(path: Path) -> pd.DataFrame:
    """Read one table by its suffix. Raises EvaluationSetError naming the file and the line."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            # "NA" and "null" are text a query may hold, not missing values.
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        rows = []
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except json.JSONDecodeError as error:
                        raise EvaluationSetError(f"{path}, line {number}: {error}") from error
                    if not isinstance(row, dict):
                        raise EvaluationSetError(f"{path}, line {number}: not a JSON object")
                    rows.append(row)
        return pd.DataFrame(rows)
    except EvaluationSetError:
        raise
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise EvaluationSetError(f"{path}: cannot be read: {error}") from error


def validate(
    queries: pd.DataFrame,
    outcomes: pd.DataFrame,
    catalog: Catalog,
    name: str = "evaluation set",
    quarantine: Path | None = None,
) -> EvaluationSet:
    """Check raw tables against the format; see ``read_evaluation_set``."""
    required = {
        "queries": ("query_id", "query"),
        "outcomes": ("query_id", "llm", *NUMBER_COLUMNS[:3]),
    }
    for table, frame in (("queries", queries), ("outcomes", outcomes)):
        for column in required[table]:
            if column not in frame.columns:
                hint = (
                    nearest(column, map(str, frame.columns)) if len(frame.columns) else "no columns"
                )
                raise EvaluationSetError(f"{table}: column {column!r} is missing; {hint}")
    queries, outcomes = (
        tidy(queries, ("query_id", "query", "source")),
        tidy(outcomes, ("query_id", "llm", *NUMBER_COLUMNS)),
    )
    aside: list[pd.DataFrame] = []
    while True:
        found = problems(queries, outcomes, catalog)
        if found.empty:
            break
        if quarantine is None:
            raise EvaluationSetError(summary(found, name), problems=found)
        bad_queries = found.loc[found["table"] == "queries", "row"].unique()
        bad_outcomes = found.loc[found["table"] == "outcomes", "row"].unique()
        aside.append(with_rows(found, queries, outcomes))
        queries = queries.loc[~queries.index.isin(bad_queries)]
        outcomes = outcomes.loc[~outcomes.index.isin(bad_outcomes)]
    count = 0
    if aside:
        rows = pd.concat(aside, ignore_index=True)
        count = int(rows[["table", "row"]].drop_duplicates().shape[0])
        quarantine_to(rows, quarantine)
    if queries.empty:
        raise EvaluationSetError(f"{name}: no query is left after {count} bad rows were set aside")
    return EvaluationSet(
        queries=queries.reset_index(drop=True),
        outcomes=complete(outcomes, catalog).reset_index(drop=True),
        catalog=catalog,
        name=name,
        quarantined=count,
        notes=(f"{count} bad rows set aside in {quarantine}",) if count else (),
    )


def tidy(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """The known columns, in fixed types; what is not a number becomes NaN. Rows count from 1."""
    out = pd.DataFrame(index=pd.RangeIndex(1, len(frame) + 1))
    for column in columns:
        if column not in frame.columns:
            out[column] = UNKNOWN_SOURCE if column == "source" else np.nan
        elif column in TEXT_COLUMNS:
            values = frame[column].astype(object).to_numpy()
            out[column] = [None if pd.isna(value) else str(value) for value in values]
        else:
            out[column] = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
            if column in MEASURED_COLUMNS:  # empty means not measured; any other non-number is bad
                given = (frame[column].notna() & (frame[column] != "")).to_numpy(dtype=bool)
                out.loc[given & out[column].isna().to_numpy(), column] = -np.inf
    return out


def check(test: Any, message: str) -> pa.Check:
    return pa.Check(test, error=message)


def text_column(checks: list[pa.Check] | None = None) -> pa.Column:
    filled = check(lambda s: s.map(lambda v: bool(v and v.strip())), "is empty")
    return pa.Column(object, [filled, *(checks or [])], nullable=False)


def problems(queries: pd.DataFrame, outcomes: pd.DataFrame, catalog: Catalog) -> pd.DataFrame:
    """Every broken rule: table, row (from 1), column, problem, value."""
    answered, asked, names = set(outcomes["query_id"]), set(queries["query_id"]), catalog.names
    tokens = [check(lambda s: s >= 0, "is negative"), check(lambda s: s % 1 == 0, "is not whole")]
    finite = check(lambda s: np.isfinite(s), "is not finite")
    measured = pa.Column(
        float, check(lambda s: s >= 0, "is not a number of 0 or more"), nullable=True
    )
    query_schema = pa.DataFrameSchema(
        {
            "query_id": text_column(
                [
                    check(lambda s: ~s.duplicated(), "stands twice"),
                    check(lambda s: s.isin(answered), "has no outcomes"),
                ]
            ),
            "query": text_column(),
        }
    )
    outcome_schema = pa.DataFrameSchema(
        {
            "query_id": text_column([check(lambda s: s.isin(asked), "is not among the queries")]),
            "llm": text_column([check(lambda s: s.isin(names), "is not in the catalog")]),
            "quality": pa.Column(float, check(lambda s: s.between(0, 1), "is outside [0, 1]")),
            "prompt_tokens": pa.Column(float, [finite, *tokens]),
            "response_tokens": pa.Column(float, [finite, *tokens]),
            "cost_usd": measured,
            "latency_seconds": measured,
            "pair": pa.Column(bool, check(lambda s: ~s, "(query_id, llm) stands twice")),
        }
    )
    pairs = outcomes.assign(pair=outcomes.duplicated(["query_id", "llm"]))
    tables = {"queries": (query_schema, queries), "outcomes": (outcome_schema, pairs)}
    found = [failures(table, schema, frame) for table, (schema, frame) in tables.items()]
    found = [rows for rows in found if not rows.empty]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def failures(table: str, schema: pa.DataFrameSchema, frame: pd.DataFrame) -> pd.DataFrame:
    """One table's broken rules, as Pandera reports them."""
    columns = ["table", "row", "column", "problem", "value"]
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        cases = cases.assign(
            table=table,
            row=cases["index"],
            problem=cases["check"].replace({"not_nullable": "is missing or not a number"}),
            value=cases["failure_case"],
        )
        unplaced = cases[cases["row"].isna()]
        if not unplaced.empty:  # a rule that could not be applied is a bug of ours, not a bad row
            raise EvaluationSetError(f"{table}: {unplaced['problem'].iloc[0]}") from error
        found: pd.DataFrame = cases[columns].drop_duplicates(["row", "column", "problem"])
        return found
    return pd.DataFrame()


def summary(found: pd.DataFrame, name: str) -> str:
    """One line a kind of problem: where, what, how many."""
    lines = []
    for (table, column, problem), group in found.groupby(
        ["table", "column", "problem"], sort=False
    ):
        first = group.iloc[0]
        shown = "query_id and llm" if column == "pair" else f"column {column!r}"
        value = "" if column == "pair" else f" {plain(first['value'])!r}"
        lines.append(
            f"{table} row {first['row']}, {shown}:{value} {problem}"
            + (f" ({len(group)} rows in all)" if len(group) > 1 else " (1 row)")
        )
    return (
        f"{name}: {found[['table', 'row']].drop_duplicates().shape[0]} bad rows:\n  "
        + "\n  ".join(lines)
        + "\nmend them, or set them aside with --quarantine FILE"
    )


def plain(value: Any) -> Any:
    """A NumPy number as Python's own, which prints as it was written."""
    return value.item() if isinstance(value, np.generic) else value


def with_rows(found: pd.DataFrame, queries: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Problems with the rows' own contents beside them."""
    frames = {"queries": queries, "outcomes": outcomes}
    contents = [
        frames[table].loc[row].to_dict()
        for table, row in zip(found["table"], found["row"], strict=True)
    ]
    return found.assign(content=contents)


def quarantine_to(rows: pd.DataFrame, path: Path | None) -> None:
    """Write bad rows as JSON Lines, replacing the file."""
    if path is None:
        raise ValueError("quarantine needs a path")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.drop(columns="value").to_json(path, orient="records", lines=True, force_ascii=False)


def complete(outcomes: pd.DataFrame, catalog: Catalog) -> pd.DataFrame:
    """Fill cost_usd from the catalog's prices where it was not measured."""
    prices = {c.name: (c.input_price / 1e6, c.output_price / 1e6) for c in catalog.llms}
    input_price = outcomes["llm"].map(lambda name: prices[name][0]).astype(float)
    output_price = outcomes["llm"].map(lambda name: prices[name][1]).astype(float)
    by_price = outcomes["prompt_tokens"] * input_price + outcomes["response_tokens"] * output_price
    return outcomes.assign(cost_usd=outcomes["cost_usd"].fillna(by_price))


def write_evaluation_set(data: EvaluationSet, folder: Path) -> None:
    """Write as Parquet and ``catalog.yaml``."""
    folder.mkdir(parents=True, exist_ok=True)
    data.queries.to_parquet(folder / "queries.parquet", index=False)
    outcomes = data.outcomes.astype({"prompt_tokens": "int64", "response_tokens": "int64"})
    outcomes.to_parquet(folder / "outcomes.parquet", index=False)
    (folder / "catalog.yaml").write_text(data.catalog.dump_yaml())
