"""What is too little to learn from is said before anything starts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mixllm.cli import app
from models.catalog import Catalog
from models.catalog_file import parse_catalog
from models.data.evaluation_set import EvaluationSet, is_test_query
from models.data.files import write_evaluation_set
from models.data.validation import validate
from models.errors import CatalogError, EvaluationSetError
from models.evaluation.measures import LEAST_TEST_QUERIES
from models.evaluation.preconditions import (
    LEAST_OUTCOMES,
    LEAST_TRAINING_QUERIES,
    check_candidate,
    check_tags,
    check_training,
    training_split,
)

PRICES = {"input_price": 1.0, "output_price": 2.0, "tokens_per_second": 9, "time_to_first_token": 1}


def catalog(*names: str) -> Catalog:
    return parse_catalog({"llms": [{"name": n, **PRICES} for n in names]}, "catalog.yaml")


def ids(training: int, test: int) -> list[str]:
    """Query ids of which so many fall on either side of the standard split."""
    sides: dict[bool, list[str]] = {False: [], True: []}
    wanted = {False: training, True: test}
    number = 0
    while any(len(sides[side]) < wanted[side] for side in sides):
        side = is_test_query(str(number))
        if len(sides[side]) < wanted[side]:
            sides[side].append(str(number))
        number += 1
    return [*sides[False], *sides[True]]


def evaluations(
    training: int = 60,
    test: int = 30,
    llms: tuple[str, ...] = ("a", "b"),
    change: Callable[[pd.DataFrame], pd.DataFrame] = lambda outcomes: outcomes,
    query: Callable[[str], str] = lambda name: f"query {name}",
) -> EvaluationSet:
    names = ids(training, test)
    asked = [(name, query(name), "s" if int(name) % 2 else "t") for name in names]
    rows = [
        (name, llm, float((int(name) + i) % 2), 10, 20 * (i + 1))
        for name in names
        for i, llm in enumerate(llms)
    ]
    columns = ["query_id", "llm", "quality", "prompt_tokens", "response_tokens"]
    return validate(
        pd.DataFrame(asked, columns=["query_id", "query", "source"]),
        change(pd.DataFrame(rows, columns=columns)),
        catalog(*llms),
    )


def test_enough_is_enough() -> None:
    data = evaluations(LEAST_TRAINING_QUERIES, LEAST_TEST_QUERIES)
    training, test, notes = training_split(data)
    assert (len(training.queries), len(test.queries)) == (50, 20)
    assert notes == []


def equal_costs(outcomes: pd.DataFrame) -> pd.DataFrame:
    return outcomes.assign(cost_usd=0.0)


def sparse(outcomes: pd.DataFrame) -> pd.DataFrame:
    return outcomes[(outcomes["llm"] == "a") | (outcomes.index % 10 == 1)]


def dull_test(outcomes: pd.DataFrame) -> pd.DataFrame:
    test = outcomes["query_id"].map(is_test_query)
    return outcomes.assign(quality=np.where(test, 0.5, outcomes["quality"]))


CASES = {
    "0 training queries, at least 50": lambda: evaluations(0, 30),
    "4 training queries, at least 50": lambda: evaluations(4, 30),
    "1 training query, at least 50": lambda: evaluations(1, 30),
    "0 test queries, at least 20": lambda: evaluations(60, 0),
    "1 test query, at least 20": lambda: evaluations(60, 1),
    r"1 training query of different text \(of 60\)": lambda: evaluations(query=lambda _: "hi"),
    r"1 test query of different text \(of 30\)": lambda: evaluations(
        query=lambda name: "hi" if is_test_query(name) else name
    ),
    "1 of the 1 LLMs of the catalog have outcomes .* add another LLM": lambda: evaluations(
        llms=("a",)
    ),
    "1 of the 2 LLMs of the catalog .* left out candidate b": lambda: evaluations(change=sparse),
    "quality of every training outcome is 0,": lambda: evaluations(
        change=lambda o: o.assign(quality=0.0)
    ),
    "quality of every test outcome is 1,": lambda: evaluations(
        change=lambda o: o.assign(quality=1.0)
    ),
    "quality of every test outcome is 0.5,": lambda: evaluations(change=dull_test),
    r"every LLM costs the same \(0 USD a query\)": lambda: evaluations(change=equal_costs),
}


@pytest.mark.parametrize("message", CASES)
def test_too_little_is_explained(message: str) -> None:
    data = CASES[message]()
    with pytest.raises(EvaluationSetError, match=message) as error:
        training_split(data)
    assert str(error.value).startswith(
        "the standard split of evaluation set is not enough to train"
    )


def test_everything_that_is_missing_is_said_at_once() -> None:
    data = evaluations(4, 1, change=lambda o: o.assign(quality=0.0, cost_usd=1.0))
    with pytest.raises(EvaluationSetError) as error:
        training_split(data)
    assert len(str(error.value).splitlines()) == 6


def test_what_flatters_the_measures_is_noted() -> None:
    data = evaluations(120, 60, query=lambda name: f"query {int(name) // 2}")
    _, test, notes = training_split(data)
    assert any("test queries are training queries too" in note for note in notes)
    assert any("training queries with the text of another" in note for note in notes)
    one = evaluations()
    one = EvaluationSet(one.queries.assign(source="mmlu"), one.outcomes, one.catalog)
    assert training_split(one)[2] == [
        "every query is of the source 'mmlu'; others may be routed worse"
    ]
    assert "60 of 60 test queries" in check_training(data, test, "x")[0]


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, f"'b' has 0 outcomes; its predictor needs at least {LEAST_OUTCOMES}"),
        (1, "'b' has 1 training outcome;"),
        (9, "'b' has 9 training outcomes;"),
    ],
)
def test_a_candidate_needs_outcomes(count: int, message: str) -> None:
    def few(outcomes: pd.DataFrame) -> pd.DataFrame:
        mine = outcomes.index[outcomes["llm"] == "b"]
        return outcomes.drop(index=mine[count:])

    with pytest.raises(EvaluationSetError, match=message):
        check_candidate("b", evaluations(change=few))


def test_a_candidate_of_another_name_gets_the_nearest() -> None:
    check_candidate("b", evaluations())
    with pytest.raises(CatalogError, match="did you mean 'b'"):
        check_candidate("B", evaluations())


def test_tags_need_queries() -> None:
    check_tags(evaluations(50, 1).split()[0])
    with pytest.raises(EvaluationSetError, match="not enough to audit tags: 49 training queries"):
        check_tags(evaluations(49, 1).split()[0])


@pytest.mark.parametrize(
    "command", [["train"], ["train", "--promote"], ["evaluate"], ["calibrate"], ["audit-tags"]]
)
def test_no_command_starts_on_too_little(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXLLM_HOME", str(tmp_path / "home"))
    write_evaluation_set(evaluations(4, 1), tmp_path / "five")
    done = CliRunner().invoke(app, [*command, "--data", str(tmp_path / "five")])
    assert isinstance(done.exception, EvaluationSetError)
    assert "4 training queries, at least 50 are needed" in str(done.exception)
    assert not (tmp_path / "home").exists()


def test_ingest_converts_what_is_too_little_and_says_so(tmp_path: Path) -> None:
    write_evaluation_set(evaluations(4, 1), tmp_path / "five")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["ingest", str(tmp_path / "five"), "--out", str(out)])
    assert done.exit_code == 0
    assert "4 training queries, at least 50 are needed" in done.output
    assert (out / "outcomes.parquet").exists()
