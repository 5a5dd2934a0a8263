import ast
import json
import os
import pickle  # to write what must not be read
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.catalog_file import parse_catalog
from models.data.routerbench import read_routerbench
from models.errors import EvaluationSetError


def wide() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "sample_id": [f"mmlu.{i}" for i in range(40)],
            "prompt": [f"['Question {i} ' , '{'why ' * (i % 7)}']" for i in range(40)],
            "eval_name": "mmlu",
        }
    )
    for name, price in (("gpt-4", 30.0), ("mistral/7b", 0.2)):
        texts = ["word " * int(n) for n in rng.integers(5, 60, 40)]
        prompts = table["prompt"].map(lambda p: len("\n".join(ast.literal_eval(p))))
        tokens = np.ceil(prompts / 4) + 2 * np.ceil(np.array([len(t) for t in texts]) / 4)
        table[name] = rng.integers(0, 2, 40).astype(float)
        table[f"{name}|model_response"] = texts
        table[f"{name}|total_cost"] = price * tokens / 1e6
    return table


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_every_form_of_the_table_reads_the_same(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"routerbench{suffix}"
    table = wide()
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=True)
    data = read_routerbench(path)
    assert data.candidates == ["gpt-4", "mistral/7b"]
    assert data.queries["query"][1] == "Question 1 \nwhy "
    np.testing.assert_allclose(data.matrix("cost_usd")[:, 0], table["gpt-4|total_cost"])
    np.testing.assert_array_equal(data.matrix("quality")[:, 1], table["mistral/7b"])


def test_prices_are_estimated_from_the_costs(tmp_path: Path) -> None:
    path = tmp_path / "routerbench.parquet"
    wide().to_parquet(path)
    catalog = read_routerbench(path).catalog
    assert catalog.get("gpt-4").input_price == pytest.approx(30.0, rel=1e-3)
    assert catalog.get("gpt-4").output_price == pytest.approx(60.0, rel=1e-3)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".csv", ".parquet", ".jsonl"])
def test_nothing_of_a_pickle_runs_whatever_its_name(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(EvaluationSetError, match=rf"evil\{suffix}"):
        read_routerbench(path)
    assert not (tmp_path / "pwned").exists()


def test_the_conversion_that_the_error_names_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "router bench.pkl"
    wide().to_pickle(path)
    with pytest.raises(EvaluationSetError, match="pickles are not read") as error:
        read_routerbench(path)
    command = shlex.split(str(error.value).splitlines()[1])
    assert command[:2] == ["python", "-c"]
    monkeypatch.setattr(sys, "argv", command[2:])
    exec(command[2], {})
    assert len(read_routerbench(path.with_suffix(".parquet")).queries) == 40


def test_no_module_of_the_product_unpickles() -> None:
    root = Path(__file__).parents[4]
    unpickles = re.compile(
        r"^\s*(import|from)\s+(_?pickle|cloudpickle|joblib|dill|shelve|marshal)\b"
        r"|torch\.load\(|allow_pickle=True|use_safetensors=False",
        re.MULTILINE,
    )
    for room in ("models", "infra", "monitoring", "serving", "flows", "benchmarks"):
        for path in (root / room).rglob("*.py"):
            assert not unpickles.search(path.read_text()), path


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "wide.csv"
    path.write_text(text)
    return path


HEADER = (
    "sample_id,prompt,eval_name,a,a|model_response,a|total_cost,b,b|model_response,b|total_cost"
)


@pytest.mark.parametrize("empty", ["", "nan", "NaN", "None", " "])
def test_no_price_is_invented(empty: str, tmp_path: Path) -> None:
    rows = [f"{i},x,e,1.0,r,0.1,0.0,r,{empty}" for i in range(3)]
    path = written(tmp_path, "\n".join([HEADER, *rows]))
    with pytest.raises(EvaluationSetError, match=r"no cost of b .*b\|total_cost.*--catalog FILE"):
        read_routerbench(path)
    prices = {"tokens_per_second": 9, "time_to_first_token": 1, "output_price": 4e6}
    catalog = parse_catalog(
        {"llms": [{"name": n, "input_price": 0, **prices} for n in ("a", "b")]}, "c"
    )
    assert read_routerbench(path, catalog).matrix("cost_usd").tolist() == [[0.1, 4.0]] * 3


def test_a_price_comes_from_the_costs_that_are_there(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}\n1,x,e,1,r,0.1,0,r,\n2,x,e,1,r,0.1,0,r,0.01")
    data = read_routerbench(path)
    costs = data.matrix("cost_usd")
    np.testing.assert_allclose(costs, [[0.1, 0.01], [0.1, 0.01]])


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("true", "false"), ("yes", "no")])
def test_truth_values_are_qualities(yes: str, no: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}\n1,x,e,1.0,r,0.1,{yes},r,0.2\n2,y,e,0,r,0.1,{no},r,0.2")
    assert read_routerbench(path).matrix("quality").tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("good,r,0.1", "wide.csv line 4, column 'b': 'good' is not a number"),
        ("0.5,r,cheap", r"wide.csv line 4, column 'b\|total_cost': 'cheap' is not a number"),
        ("0.5,r,-1", r"wide.csv line 4, column 'b\|total_cost': '-1' is negative"),
        ("0.5,r,inf", r"wide.csv line 4, column 'b\|total_cost': 'inf' is not a number"),
        ("85,r,0.1", r"wide.csv line 4, column 'b': '85' is outside \[0, 1\]"),
    ],
)
def test_a_bad_cell_is_named_by_its_line_and_column(
    cells: str, message: str, tmp_path: Path
) -> None:
    text = f'{HEADER}\n1,"two\nlines",e,1,r,0.1,0,r,0.1\n2,y,e,1,r,0.1,{cells}\n'
    with pytest.raises(EvaluationSetError, match=message):
        read_routerbench(written(tmp_path, text))


def test_an_llm_without_any_quality_is_left_out_aloud(tmp_path: Path) -> None:
    data = read_routerbench(written(tmp_path, f"{HEADER}\n1,x,e,1,r,0.1,,r,0.1"))
    assert data.candidates == ["a"]
    assert data.notes == ("b: no quality in any row, so it was left out",)


def test_a_prompt_as_chat_messages_is_routed_as_the_gateway_does(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    row = {"sample_id": 1, "prompt": prompt, "eval_name": "e", "a": True, "a|total_cost": 1}
    path = tmp_path / "wide.jsonl"
    path.write_text(json.dumps(row))
    assert read_routerbench(path).queries["query"].tolist() == ["hi"]


def test_a_table_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("sample_id,prompt\na,b\n")
    with pytest.raises(EvaluationSetError, match="lacks: eval_name"):
        read_routerbench(path)
