import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.catalog import Catalog
from models.catalog_file import parse_catalog
from models.data.evaluation_set import EvaluationSet, comparable, is_test_query
from models.data.files import read_evaluation_set, write_evaluation_set
from models.data.simulated import simulated_evaluation_set
from models.data.validation import validate
from models.errors import EvaluationSetError

PRICES = {"input_price": 1.0, "output_price": 2.0, "tokens_per_second": 9, "time_to_first_token": 1}


@pytest.fixture
def catalog() -> Catalog:
    return parse_catalog({"llms": [{"name": n, **PRICES} for n in ("a", "b")]}, "catalog.yaml")


def queries() -> pd.DataFrame:
    rows = [("q1", "one?", "s"), ("q2", "NA", "s"), ("q3", "null", "t")]
    return pd.DataFrame(rows, columns=["query_id", "query", "source"])


def outcomes() -> pd.DataFrame:
    rows = [("q1", "a", 1.0, 10, 20), ("q1", "b", 0.0, 10, 30), ("q2", "a", 0.5, 5, 6)]
    rows += [("q3", "a", 0.25, 7, 8), ("q3", "b", 1.0, 7, 0)]
    return pd.DataFrame(
        rows, columns=["query_id", "llm", "quality", "prompt_tokens", "response_tokens"]
    )


def test_cost_follows_the_prices_where_it_was_not_measured(catalog: Catalog) -> None:
    nan = np.nan
    table = outcomes().assign(cost_usd=[nan, 0.5, nan, nan, nan])
    data = validate(queries(), table, catalog)
    cost = data.matrix("cost_usd")
    assert cost[0].tolist() == [pytest.approx((10 * 1 + 20 * 2) / 1e6), 0.5]
    assert np.isnan(cost[1, 1]), "partial coverage is no error"


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_format_reads_the_same(suffix: str, catalog: Catalog, tmp_path: Path) -> None:
    for name, table in (("queries", queries()), ("outcomes", outcomes())):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            table.to_parquet(path)
        elif suffix == "csv":
            table.to_csv(path, index=False)
        else:
            table.to_json(path, orient="records", lines=True)
    (tmp_path / "catalog.yaml").write_text(catalog.dump_yaml())
    read = read_evaluation_set(tmp_path)
    assert read.digest == validate(queries(), outcomes(), catalog).digest
    assert read.queries["query"].tolist() == ["one?", "NA", "null"]


BAD_ROWS = [
    ("outcomes", 0, "llm", "zzz", r"outcomes row 1, column 'llm': 'zzz' is not in the catalog"),
    ("outcomes", 1, "quality", 1.5, r"outcomes row 2, column 'quality': 1.5 is outside \[0, 1\]"),
    (
        "outcomes",
        1,
        "quality",
        None,
        r"outcomes row 2, column 'quality': is missing",
    ),
    ("outcomes", 2, "response_tokens", -4, r"row 3, column 'response_tokens': -4 is negative"),
    ("outcomes", 2, "prompt_tokens", 1.5, r"row 3, column 'prompt_tokens': 1.5 is not whole"),
    ("outcomes", 1, "llm", "a", r"row 2, column 'query_id, llm': is listed twice"),
    ("outcomes", 4, "query_id", "q9", r"row 5, column 'query_id': 'q9' is not among the queries"),
    ("queries", 0, "query", "  ", r"queries row 1, column 'query': '  ' is empty"),
    ("queries", 1, "query_id", "q1", r"queries row 2, column 'query_id': 'q1' is listed twice"),
    ("queries", 1, "query_id", "q7", r"queries row 2, column 'query_id': 'q7' has no outcomes"),
]


@pytest.mark.parametrize(("table", "row", "column", "value", "message"), BAD_ROWS)
def test_each_bad_row_is_named(
    table: str, row: int, column: str, value: Any, message: str, catalog: Catalog
) -> None:
    tables = {"queries": queries(), "outcomes": outcomes().astype(object)}
    tables[table].loc[row, column] = value
    with pytest.raises(EvaluationSetError, match=message):
        validate(tables["queries"], tables["outcomes"], catalog)


@pytest.mark.parametrize(("table", "row", "column", "value", "message"), BAD_ROWS)
def test_quarantine_sets_bad_rows_aside_and_goes_on(
    table: str, row: int, column: str, value: Any, message: str, catalog: Catalog, tmp_path: Path
) -> None:
    tables = {"queries": queries(), "outcomes": outcomes().astype(object)}
    tables[table].loc[row, column] = value
    aside = tmp_path / "bad" / "rows.jsonl"
    data = validate(tables["queries"], tables["outcomes"], catalog, quarantine=aside)
    rows = [json.loads(line) for line in aside.read_text().splitlines()]
    assert data.quarantined == len({(r["file"], r["row"]) for r in rows}) > 0
    assert (table, row + 1) in {(r["file"], r["row"]) for r in rows}
    assert set(data.queries["query_id"]) == set(data.outcomes["query_id"])


def test_the_count_of_a_problem_is_given(catalog: Catalog) -> None:
    with pytest.raises(EvaluationSetError, match=r"5 bad rows(.|\n)*\(5 rows in all\)"):
        validate(queries(), outcomes().assign(quality=7.0), catalog)


def test_nothing_left_is_an_error(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(EvaluationSetError, match="no query is left after 8 bad rows"):
        validate(
            queries(), outcomes().assign(quality=7.0), catalog, quarantine=tmp_path / "q.jsonl"
        )


def test_a_missing_column_is_named(catalog: Catalog) -> None:
    table = outcomes().rename(columns={"quality": "qualty"})
    with pytest.raises(EvaluationSetError, match="'quality' is missing; did you mean 'qualty'"):
        validate(queries(), table, catalog)


def test_files_that_are_missing_double_or_broken(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(EvaluationSetError, match="no such folder"):
        read_evaluation_set(tmp_path / "nowhere")
    with pytest.raises(EvaluationSetError, match=r"name it one of queries\.parquet"):
        read_evaluation_set(tmp_path)
    (tmp_path / "queries.jsonl").write_text('{"query_id": "q1", "query": "x"}\n{oops\n')
    outcomes().to_csv(tmp_path / "outcomes.csv", index=False)
    (tmp_path / "catalog.yaml").write_text(catalog.dump_yaml())
    with pytest.raises(EvaluationSetError, match=r"queries\.jsonl line 2: is not JSON"):
        read_evaluation_set(tmp_path)
    (tmp_path / "queries.csv").write_text("query_id,query\n")
    with pytest.raises(EvaluationSetError, match="are both there"):
        read_evaluation_set(tmp_path)


def test_the_standard_split_is_the_published_rule() -> None:
    for name in ("q1", "q2", "x:3", "ü"):
        digest = hashlib.sha256(name.encode()).hexdigest()
        assert is_test_query(name) == (int(digest[:8], 16) % 5 == 0)


def test_the_split_keeps_every_query_once(simulated: EvaluationSet) -> None:
    train, test = simulated.split()
    ids = [*train.queries["query_id"], *test.queries["query_id"]]
    assert sorted(ids) == sorted(simulated.queries["query_id"])
    assert len(train.outcomes) + len(test.outcomes) == len(simulated.outcomes)


def test_the_coverage_rule_leaves_out_and_says_so(
    split: tuple[EvaluationSet, EvaluationSet],
) -> None:
    train, test = split
    sparse = train.outcomes[
        (train.outcomes["llm"] != "sim-nano") | (train.outcomes.index % 12 == 0)
    ]
    holed = test.outcomes.drop(index=test.outcomes.index[test.outcomes["llm"] == "sim-mini"][:1])
    train = EvaluationSet(train.queries, sparse, train.catalog)
    names, kept, notes = comparable(train, test)
    assert "sim-nano" not in names
    assert any("sim-nano" in note for note in notes)
    # Under 99 % of so few queries: the candidate goes, not the query.
    one_less = EvaluationSet(test.queries, holed, test.catalog)
    names, kept, _ = comparable(split[0], one_less)
    assert "sim-mini" not in names
    assert len(kept.queries) == len(test.queries)


def test_writing_keeps_the_content(simulated: EvaluationSet, tmp_path: Path) -> None:
    write_evaluation_set(simulated, tmp_path)
    assert read_evaluation_set(tmp_path).digest == simulated.digest


def test_the_simulated_set_follows_its_seed_and_skills() -> None:
    first, again = simulated_evaluation_set(200, seed=3), simulated_evaluation_set(200, seed=3)
    assert first.digest == again.digest != simulated_evaluation_set(200, seed=4).digest
    assert first.queries["source"].nunique() >= 6
    quality = first.outcomes.groupby("llm")["quality"].mean()
    assert quality.idxmax() == "sim-frontier"
    assert quality.idxmin() == "sim-nano"
