"""Checks an evaluation set's tables: columns, types, rules."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pa

from models.catalog import Catalog
from models.data import cells
from models.data.evaluation_set import EvaluationSet
from models.data.problems import (
    NOT_IN_CATALOG,
    PROBLEM_COLUMNS,
    failures,
    records,
    rows_text,
    summary,
    with_places,
    write_quarantine,
)
from models.data.tables.raw_table import RawTable
from models.errors import EvaluationSetError, nearest
from models.prices import token_cost

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
UNKNOWN_SOURCE: Final = "unknown"
# No LLM reads or writes more; a larger figure is of another column, and would not fit an integer.
MOST_TOKENS: Final = 1e9
# USD and seconds of one answer; a larger figure is of another unit.
MOST_MEASURED: Final = 1e6


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
        aside += records(found, raw, unread=unread > 0)
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
        converted, bad = cells.convert(values, CELLS[column], numbers=column in NUMBER_COLUMNS)
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


def complete(outcomes: pd.DataFrame, catalog: Catalog) -> pd.DataFrame:
    """Fill cost_usd from the catalog's prices where it was not measured."""
    by_name = {entry.name: entry for entry in catalog.llms}
    entries = [by_name[name] for name in outcomes["llm"]]
    by_price = token_cost(
        outcomes["prompt_tokens"].to_numpy(np.float64),
        outcomes["response_tokens"].to_numpy(np.float64),
        np.array([entry.input_price for entry in entries]),
        np.array([entry.output_price for entry in entries]),
    )
    measured = outcomes["cost_usd"].to_numpy(np.float64)
    return outcomes.assign(cost_usd=np.where(np.isnan(measured), by_price, measured))
