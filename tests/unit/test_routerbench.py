import ast
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.errors import EvaluationSetError
from models.routerbench import read_routerbench


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


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pkl"])
def test_every_form_of_the_table_reads_the_same(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"routerbench{suffix}"
    table = wide()
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_pickle(path)
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


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(EvaluationSetError, match="neither a pandas nor a NumPy constructor"):
        read_routerbench(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2])])
def test_other_bytes_are_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.pkl"
    path.write_bytes(content)
    with pytest.raises(EvaluationSetError, match=r"table\.pkl"):
        read_routerbench(path)


def test_a_table_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("sample_id,prompt\na,b\n")
    with pytest.raises(EvaluationSetError, match="lacks: eval_name"):
        read_routerbench(path)
