"""Evaluation sets as users have them on disk: nothing is invented, nothing vanishes."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.catalog_file import parse_catalog
from models.data.evaluation_set import EvaluationSet
from models.data.files import read_evaluation_set, write_evaluation_set
from models.errors import CatalogError, EvaluationSetError

PRICES = {"input_price": 1.0, "output_price": 2.0, "tokens_per_second": 9, "time_to_first_token": 1}
CATALOG = parse_catalog({"llms": [{"name": n, **PRICES} for n in ("a", "b")]}, "here").dump_yaml()
HEAD = "query_id,llm,quality,prompt_tokens,response_tokens"


def folder(tmp_path: Path, **files: str | bytes) -> Path:
    """queries_csv=..., outcomes_csv=... beside a catalog of a and b."""
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name.replace("_", ".")).write_bytes(data)
    return tmp_path


def outcomes_of(ids: list[Any], quality: Any = "1") -> str:
    return "\n".join([HEAD, *(f"{i},{llm},{quality},5,7" for i in ids for llm in "ab")])


def parquet(**columns: Any) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table(columns), made)
    return made.getvalue()


def qualities(data: EvaluationSet) -> list[float]:
    return list(data.outcomes["quality"])


def test_percent_is_taken_and_a_decimal_comma_is_named(tmp_path: Path) -> None:
    rows = '0,a,87.5%,5,7\n0,b,"0,5",5,7\n'
    made = folder(tmp_path, queries_csv="query_id,query\n0,hi\n", outcomes_csv=f"{HEAD}\n{rows}")
    with pytest.raises(EvaluationSetError) as error:
        read_evaluation_set(made)
    assert "outcomes.csv line 3, column 'quality': '0,5' is not a number" in str(error.value)
    aside = tmp_path / "aside.jsonl"
    data = read_evaluation_set(made, aside)
    assert qualities(data) == [0.875]
    assert json.loads(aside.read_text()) == {
        "file": "outcomes.csv",
        "line": 3,
        "column": "quality",
        "value": "0,5",
        "problem": "is not a number: write a decimal point, and nothing between thousands",
        "content": {
            "query_id": "0",
            "llm": "b",
            "quality": "0,5",
            "prompt_tokens": "5",
            "response_tokens": "7",
        },
    }
    assert any(note.startswith("1 bad row set aside") for note in data.notes)
    assert "in the catalog without any outcome: b" in data.notes


IDS = {
    "integers": parquet(query_id=[1, 2], query=["x", "y"]),
    "floats": parquet(query_id=[1.0, 2.0], query=["x", "y"]),
    "half missing": parquet(query_id=pa.array([1, 2], pa.int16()), query=["x", "y"]),
    "texts": parquet(query_id=["1", "2"], query=["x", "y"]),
    "floats as text": parquet(query_id=["1.0", "2.0"], query=["x", "y"]),
    "decimals": parquet(query_id=pa.array([1, 2], pa.decimal128(9, 3)), query=["x", "y"]),
    "categories": parquet(query_id=pa.array(["1", "2"]).dictionary_encode(), query=["x", "y"]),
}


@pytest.mark.parametrize("asked", IDS)
@pytest.mark.parametrize("answered", [["1", "2"], ["1.0", "2.0"], [" 1", "2 "], ["1", "2.0"]])
def test_ids_match_whatever_their_type(asked: str, answered: list[str], tmp_path: Path) -> None:
    made = folder(tmp_path, queries_parquet=IDS[asked], outcomes_csv=outcomes_of(answered))
    data = read_evaluation_set(made)
    assert set(data.outcomes["query_id"]) == set(data.queries["query_id"])
    assert len(data.outcomes) == 4


def test_ids_that_differ_as_written_stay_apart(tmp_path: Path) -> None:
    text = "query_id,query\n1,x\n1.0,y\n01,z\n"
    made = folder(tmp_path, queries_csv=text, outcomes_csv=outcomes_of(["1", "1.0", "01"]))
    assert list(read_evaluation_set(made).queries["query_id"]) == ["1", "1.0", "01"]
    made = folder(tmp_path, queries_csv="query_id,query\n1,x\n", outcomes_csv=outcomes_of(["01"]))
    with pytest.raises(EvaluationSetError, match="line 2, column 'query_id': '01' is not among"):
        read_evaluation_set(made)


def test_chat_messages_become_the_text_that_the_gateway_routes(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    rows = [{"query_id": 1, "query": {"messages": chat}}, {"query_id": 2, "query": chat}]
    made = folder(
        tmp_path,
        queries_jsonl="\n".join(map(json.dumps, rows)),
        outcomes_csv=outcomes_of([1, 2]),
    )
    assert list(read_evaluation_set(made).queries["query"]) == ["hi", "hi"]
    (made / "queries.jsonl").unlink()
    made = folder(tmp_path, queries_parquet=parquet(query_id=[1, 2], query=[chat, chat]))
    assert list(read_evaluation_set(made).queries["query"]) == ["hi", "hi"]
    (made / "queries.parquet").unlink()
    made = folder(tmp_path, queries_jsonl='{"query_id": 1, "query": {"q": 1}}\n')
    with pytest.raises(
        EvaluationSetError, match=r"queries.jsonl line 1, column 'query': '\{\"q\": 1"
    ):
        read_evaluation_set(made)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("85,5,7", r"'85' is outside \[0, 1\]; of a scale to 100, divide or write it as a percent"),
        ("101%,5,7", r"'101%' is outside \[0, 1\]"),
        ("-0.1,5,7", r"'-0.1' is outside \[0, 1\]"),
        ("inf,5,7", "'inf' is not a number"),
        ("nan,5,7", "'nan' is not a number"),
        (",5,7", "column 'quality': is missing"),
        ("1,True,7", "column 'prompt_tokens': 'True' is not a number"),
        ("1,5.5,7", "column 'prompt_tokens': '5.5' is not whole"),
        ("1,1e18,7", "column 'prompt_tokens': '1e18' is more tokens than"),
        ("1,5", "has 4 cells, the header 5"),
        ("1,5,7,8", "has 6 cells, the header 5"),
    ],
)
def test_a_bad_row_is_named_by_file_line_column_and_value(
    row: str, message: str, tmp_path: Path
) -> None:
    text = f"{HEAD}\n1,a,1,5,7\n1,b,{row}\n"
    made = folder(tmp_path, queries_csv="query_id,query\n1,x\n", outcomes_csv=text)
    with pytest.raises(EvaluationSetError, match=rf"outcomes.csv line 3.*{message}"):
        read_evaluation_set(made)
    assert len(read_evaluation_set(made, tmp_path / "aside").outcomes) == 1


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    text = 'query_id,query\n1,"x\ny\nz"\n\n2,\n'
    made = folder(tmp_path, queries_csv=text, outcomes_csv=outcomes_of([1, 2]))
    with pytest.raises(EvaluationSetError, match=r"queries.csv line 6, column 'query': is empty"):
        read_evaluation_set(made)


def test_every_unknown_llm_is_named_with_the_nearest(tmp_path: Path) -> None:
    text = outcomes_of([1]) + "\n1,A,1,5,7\n1,gpt,1,5,7\n"
    made = folder(tmp_path, queries_csv="query_id,query\n1,x\n", outcomes_csv=text)
    with pytest.raises(EvaluationSetError) as error:
        read_evaluation_set(made)
    assert "'A' is not in the catalog; did you mean 'a'? (1 row)" in str(error.value)
    assert "'gpt' is not in the catalog; known: a, b (1 row)" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "outcomes.csv: has no rows"),
        ("", "outcomes.csv: is empty"),
        (
            outcomes_of([1]).replace("quality", "qualty"),
            "'quality' is missing; did you mean 'qualty'",
        ),
        (outcomes_of([1]).replace("llm", "LLM"), "'llm' is missing; did you mean 'LLM'"),
        (outcomes_of([1]).replace("llm", "quality"), "the column 'quality' is duplicated"),
    ],
)
def test_a_table_that_is_not_one(text: str, message: str, tmp_path: Path) -> None:
    made = folder(tmp_path, queries_csv="query_id,query\n1,x\n", outcomes_csv=text)
    with pytest.raises(EvaluationSetError, match=message):
        read_evaluation_set(made)


def test_columns_that_are_not_used_are_noted(tmp_path: Path) -> None:
    made = folder(
        tmp_path,
        queries_csv="query_id,query\n1,x\n",
        outcomes_csv=f"{HEAD},latency_second,grader\n1,a,1,5,7,3,g\n",
    )
    notes = read_evaluation_set(made).notes
    assert (
        "outcomes.csv: columns not used: latency_second (did you mean 'latency_seconds'?), grader"
        in notes
    )


def test_a_source_without_a_name_is_unknown(tmp_path: Path) -> None:
    rows = '{"query_id": 1, "query": "x", "source": null}\n{"query_id": 2, "query": "y"}\n'
    made = folder(tmp_path, queries_jsonl=rows, outcomes_csv=outcomes_of([1, 2]))
    assert list(read_evaluation_set(made).queries["source"]) == ["unknown", "unknown"]


def test_what_cannot_be_written_is_said(tmp_path: Path, simulated: EvaluationSet) -> None:
    made = folder(tmp_path, queries_csv="query_id,query\n1,x\n", outcomes_csv=outcomes_of([1]))
    with pytest.raises(EvaluationSetError, match=r"queries.csv is there; write the checked set to"):
        write_evaluation_set(read_evaluation_set(made), made)
    with pytest.raises(EvaluationSetError, match="cannot be written"):
        write_evaluation_set(simulated, made / "queries.csv" / "out")
    (made / "outcomes.csv").write_text(outcomes_of([1], "bad") + "\n1,a,1,5,7\n")
    with pytest.raises(EvaluationSetError, match="cannot be written"):
        read_evaluation_set(made, made / "queries.csv" / "aside")


def seeds() -> dict[str, bytes]:
    """One file of each kind."""
    queries = pd.DataFrame({"query_id": ["1", "2"], "query": ["hé", "x\ny"], "source": ["s", "t"]})
    outcomes = pd.read_csv(io.StringIO(outcomes_of([1, 2], "0.5")))
    files: dict[str, bytes] = {"catalog.yaml": CATALOG.encode()}
    for stem, table in (("queries", queries), ("outcomes", outcomes)):
        files[f"{stem}.csv"] = table.to_csv(index=False).encode()
        files[f"{stem}.jsonl"] = table.to_json(orient="records", lines=True).encode()
        files[f"{stem}.parquet"] = table.to_parquet(index=False)
    return files


FILES = seeds()
PIECES = [
    *(b'"', b",", b"\n", b"\r", b"\0", b"{", b"[", b"]", b"}", b":", b"&a ", b"*a", b"!!", b"<<"),
    *(b"- ", b"\t", b"%", b"nan", b"1e999", b"9" * 400, b"null"),
    *(b"\xff", b"\xed\xa0\x80", b"\\ud800"),
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's name and its bytes after a few edits."""
    name = draw(st.sampled_from(sorted(FILES)))
    data = bytearray(FILES[name])
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        edit = draw(st.sampled_from(["flip", "insert", "cut", "repeat"]))
        if edit == "flip" and data:
            data[place] = draw(st.integers(0, 255))
        elif edit == "insert":
            data[place:place] = draw(st.sampled_from(PIECES) | st.binary(min_size=1, max_size=8))
        elif edit == "cut":
            del data[place : place + draw(st.integers(1, 200))]
        else:
            data[place:place] = data[place : place + draw(st.integers(1, 100))]
    return name, bytes(data)


@given(mutated())
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_read_or_are_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, change: tuple[str, bytes]
) -> None:
    name, data = change
    made = tmp_path_factory.mktemp("set")
    suffix = Path(name).suffix if name != "catalog.yaml" else ".csv"
    for stem in ("queries", "outcomes"):
        (made / f"{stem}{suffix}").write_bytes(FILES[f"{stem}{suffix}"])
    (made / "catalog.yaml").write_bytes(FILES["catalog.yaml"])
    (made / name).write_bytes(data)
    try:
        read = read_evaluation_set(made)
    except (EvaluationSetError, CatalogError) as refused:
        said = str(refused)
    else:
        write_evaluation_set(read, made / "out")
        assert read_evaluation_set(made / "out").digest == read.digest
        return
    assert any(stem in said for stem in ("queries", "outcomes", "catalog.yaml"))
