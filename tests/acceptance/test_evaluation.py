"""Commands that read and measure evaluation sets."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from commands import run
from models.data.evaluation_set import EvaluationSet
from models.data.files import read_evaluation_set, write_evaluation_set
from models.evaluation.measures import MEASURES


def test_a_bad_row_stops_ingest_until_it_is_quarantined(data: Path, tmp_path: Path) -> None:
    outcomes = pd.read_parquet(data / "outcomes.parquet")
    outcomes.loc[4, "quality"] = 3.0
    bad = tmp_path / "bad"
    bad.mkdir()
    outcomes.to_csv(bad / "outcomes.csv", index=False)
    pd.read_parquet(data / "queries.parquet").to_json(
        bad / "queries.jsonl", orient="records", lines=True
    )
    (bad / "catalog.yaml").write_text((data / "catalog.yaml").read_text())
    done = run("ingest", bad, "--out", tmp_path / "out", home=tmp_path)
    assert done.returncode == 2
    assert "outcomes.csv line 6, column 'quality': '3.0' is outside [0, 1]" in done.stderr
    aside = tmp_path / "aside.jsonl"
    done = run("ingest", bad, "--out", tmp_path / "out", "--quarantine", aside, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 bad row set aside" in done.stdout
    assert json.loads(aside.read_text())["line"] == 6
    assert len(pd.read_parquet(tmp_path / "out" / "outcomes.parquet")) == len(outcomes) - 1


def check_results(out: Path, choices: Path, queries: int) -> None:
    results = json.loads(out.read_text())
    assert set(results["measures"]) == {
        *("mixllm", "tuned_knn", "clusters", "constant_cost", "no_shrinkage"),
        *("best_single", "random", "zero", "oracle"),
    }
    for measured in results["measures"].values():
        assert set(measured) == {*MEASURES, "aiq_over"}
    assert results["measures"]["mixllm"]["aiq"]["low"] is not None
    table = pd.read_parquet(choices)
    assert list(table.columns) == ["willingness_to_pay", "query_id", "llm"]
    settings = table.groupby("willingness_to_pay")["query_id"].agg(["count", "nunique"])
    assert (settings == results["test_queries"]).all().all()
    assert results["test_queries"] == queries
    assert set(table["llm"]) <= set(results["candidates"])


def test_evaluate_measures_on_the_standard_split(
    data: Path, home: Path, simulated: EvaluationSet, tmp_path: Path
) -> None:
    out, choices, plot = (tmp_path / n for n in ("r.json", "c.parquet", "p.png"))
    done = run(
        *("evaluate", "--data", data, "--out", out, "--choices", choices, "--plot", plot), home=home
    )
    assert done.returncode == 0, done.stderr
    check_results(out, choices, len(simulated.split()[1].queries))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "mixllm" in done.stdout
    assert "oracle" in done.stdout


def test_evaluate_measures_on_another_set(
    home: Path, simulated: EvaluationSet, tmp_path: Path
) -> None:
    """Where the test queries have a set of their own, every query of --data is trained on."""
    train, test = simulated.split()
    for name, part in (("train", train), ("test", test)):
        write_evaluation_set(part, tmp_path / name)
    out, choices = tmp_path / "r.json", tmp_path / "c.parquet"
    done = run(
        *("evaluate", "--data", tmp_path / "train", "--test-data", tmp_path / "test"),
        *("--out", out, "--choices", choices, "--families", "ridge"),
        home=home,
    )
    assert done.returncode == 0, done.stderr
    check_results(out, choices, len(test.queries))
    assert json.loads(out.read_text())["training_queries"] == len(train.queries)


def test_the_audit_of_tags_is_a_table_a_plot_and_a_run(
    data: Path, home: Path, simulated: EvaluationSet, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    done = run("audit-tags", "--data", data, "--out", out, "--domains", "auto", home=home)
    assert done.returncode == 0, done.stderr
    assert "of the queries have a domain" in done.stdout
    assert (out / "domains.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "audit.json").read_text())
    assert found["queries"] == len(simulated.split()[0].queries)
    assert found["nmi"] > 0.5
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    run_id = done.stdout.split("MLflow run ")[1].strip()
    assert client.get_run(run_id).data.metrics["nmi"] == pytest.approx(found["nmi"])
    assert {f.path for f in client.list_artifacts(run_id, "report")} == {
        f"report/{name}" for name in ("audit.md", "audit.json", "domains.png")
    }


def test_the_schema_of_the_training_options_is_printed(tmp_path: Path) -> None:
    printed = json.loads(run("schema", home=tmp_path).stdout)
    assert {"encoder", "tagger", "domains", "tuning"} <= set(printed["properties"])


def test_calibrate_says_what_to_expect(data: Path, home: Path) -> None:
    command = ("calibrate", "--data", data, "--families", "ridge")
    done = run(*command, "--quality-share", "0.9", "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["willingness_to_pay"] >= 0
    done = run(*command, "--cost-share", "0.3", home=home)
    assert done.returncode == 0, done.stderr
    assert "willingness to pay: 0.0" in done.stdout
    assert done.stdout.count("expect on unseen queries") == 2
    impossible = run(*command, "--quality-share", "5", home=home)
    assert impossible.returncode == 2
    assert "no willingness to pay keeps 500.00%" in impossible.stderr


def test_evaluate_on_a_real_set(zeroeval: Path, home: Path, tmp_path: Path) -> None:
    """On a fifth of it: real queries are long to embed."""
    whole = read_evaluation_set(zeroeval)
    fifth = whole.where(np.arange(len(whole.queries)) % 5 == 0)
    write_evaluation_set(fifth, tmp_path / "fifth")
    out, choices = tmp_path / "r.json", tmp_path / "c.parquet"
    done = run(
        *("evaluate", "--data", tmp_path / "fifth", "--out", out, "--choices", choices),
        *("--families", "ridge"),
        home=home,
    )
    assert done.returncode == 0, done.stderr
    check_results(out, choices, len(fifth.split()[1].queries))
    measured = json.loads(out.read_text())["measures"]
    assert measured["mixllm"]["aiq"]["value"] > measured["random"]["aiq"]["value"] + 0.1
    assert measured["mixllm"]["aiq"]["value"] < measured["oracle"]["aiq"]["value"]
