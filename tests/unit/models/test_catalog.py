import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from models.catalog import OPTIONAL_PRICES, Candidate, Catalog
from models.catalog_file import parse_catalog, read_catalog
from models.errors import CatalogError

GOOD = {
    "name": "a",
    "input_price": 1.0,
    "output_price": 2.0,
    "tokens_per_second": 50.0,
    "time_to_first_token": 0.5,
}


def test_reads_what_it_writes(tmp_path: Path) -> None:
    catalog = parse_catalog({"llms": [GOOD, {**GOOD, "name": "b"}], "default": "b"}, "here")
    path = tmp_path / "catalog.yaml"
    path.write_text(catalog.dump_yaml())
    assert read_catalog(path) == catalog
    assert catalog.default_candidate == "b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_price": -1.0}, "candidate 'a': input_price: .* greater than or equal to 0"),
        ({"output_price": float("nan")}, "candidate 'a': output_price"),
        ({"tokens_per_second": 0.0}, "candidate 'a': tokens_per_second"),
        ({"tokens_per_secnd": 3.0}, "unknown key 'tokens_per_secnd'; did you mean 'tokens_per_sec"),
        ({"name": "line\nbreak"}, "name"),
        ({"input_price": None}, "candidate 'a': input_price"),
        ({"input_price": True}, "candidate 'a': input_price: True is true or false, not a number"),
        (
            {"input_price": "1,5"},
            "candidate 'a': input_price: '1,5' is not a number: write a decim",
        ),
        ({"input_price": "$3"}, r"candidate 'a': input_price: '\$3' is not a number"),
        ({"input_price": "1_000"}, "candidate 'a': input_price: '1_000' is not a number"),
        ({"input_price": "free"}, "candidate 'a': input_price: 'free' is not a number"),
        ({"input_price": float("inf")}, "candidate 'a': input_price"),
        ({"input_price": 1e300}, "candidate 'a': input_price"),
        ({"input_price": [1]}, "candidate 'a': input_price"),
        ({"context_window": True}, "candidate 'a': context_window: True is true or false"),
        ({"context_window": 1.5}, "candidate 'a': context_window"),
        ({"name": 4.1}, "name: 4.1 is not text; put it in quotes"),
        ({"name": " "}, "candidate ' ': name"),
        ({"abilities": [True]}, "True is not text; put it in quotes"),
    ],
)
def test_a_bad_entry_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        parse_catalog({"llms": [{**GOOD, **change}]}, "catalog.yaml")


def test_a_missing_price_is_named() -> None:
    entry = {key: value for key, value in GOOD.items() if key != "output_price"}
    with pytest.raises(CatalogError, match="candidate 'a': output_price is missing"):
        parse_catalog({"llms": [entry]}, "catalog.yaml")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"llms": [GOOD, GOOD]}, "listed twice: a"),
        ({"llms": [GOOD, {**GOOD, "name": " a "}]}, "listed twice: a"),
        ({"llms": [GOOD, {**GOOD, "name": "A"}]}, "differ only in case: A, a"),
        ({"llms": {"a": GOOD}}, "llms"),
        ({"llms": ["a"]}, "candidate number 1"),
        ({"llms": [GOOD], "default": True}, "default: True is not text"),
        ({"llms": [GOOD], "default": "c"}, "no candidate 'c'"),
        ({"llms": []}, "llms"),
        (["a"], "expected a mapping"),
    ],
)
def test_a_bad_catalog_is_an_error(data: object, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        parse_catalog(data, "catalog.yaml")


def test_an_unknown_name_gets_the_nearest() -> None:
    catalog: Catalog = parse_catalog({"llms": [{**GOOD, "name": "gpt-4o"}]}, "here")
    with pytest.raises(CatalogError, match="did you mean 'gpt-4o'"):
        catalog.get("gpt4o")


def test_files_that_are_not_there_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such file"):
        read_catalog(tmp_path / "catalog.yaml")
    (tmp_path / "catalog.yaml").write_text("llms: [")
    with pytest.raises(CatalogError, match="not YAML"):
        read_catalog(tmp_path / "catalog.yaml")


def test_an_upstream_has_sound_defaults_and_is_kept() -> None:
    llm = {**GOOD, "upstream": {"base_url": "https://host/v1", "concurrency": 4}}
    catalog = parse_catalog({"llms": [llm]}, "catalog.yaml")
    upstream = catalog.get("a").upstream
    assert upstream is not None
    assert (upstream.concurrency, upstream.retries, upstream.key_header) == (4, 1, "authorization")
    assert parse_catalog(yaml.safe_load(catalog.dump_yaml()), "again") == catalog


@pytest.mark.parametrize(
    ("upstream", "told"),
    [
        ({"base_url": "host/v1"}, "candidate 'a': base_url"),
        ({"base_url": "http://host", "concurency": 4}, "did you mean 'concurrency'"),
        ({"base_url": "http://host", "concurrency": 0}, "candidate 'a': concurrency"),
        ({"base_url": "http://host", "key_variable": "sk-123"}, "candidate 'a': key_variable"),
        ({"base_url": "http://host", "headers": {"Host": "x"}}, "header 'Host' cannot be set"),
        ({"base_url": "http://host", "headers": {"x": "a\nb"}}, "header 'x' cannot be set"),
        ({}, "candidate 'a': base_url is missing"),
    ],
)
def test_a_broken_upstream_is_named(upstream: dict[str, object], told: str) -> None:
    with pytest.raises(CatalogError, match=re.escape(told)):
        parse_catalog({"llms": [{**GOOD, "upstream": upstream}]}, "catalog.yaml")


def test_a_price_may_be_zero_or_in_quotes() -> None:
    entry = {**GOOD, "input_price": 0, "output_price": "1e-1"}
    catalog = parse_catalog({"llms": [entry]}, "catalog.yaml")
    assert (catalog.get("a").input_price, catalog.get("a").output_price) == (0.0, 0.1)


def test_names_that_yaml_takes_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    rest = "input_price: 1e0, output_price: 010, tokens_per_second: 5, time_to_first_token: 0"
    path.write_text(f"llms:\n- {{name: no, {rest}}}\n- {{name: 2024-08-06, {rest}}}\ndefault: no\n")
    catalog = read_catalog(path)
    assert catalog.names == ["no", "2024-08-06"]
    assert catalog.default_candidate == "no"
    assert catalog.get("no").output_price == 10  # as it reads, not octal 8
    path.write_text(catalog.dump_yaml())
    assert read_catalog(path) == catalog
    path.write_text(f"llms:\n- {{name: a, {rest}, input_price: 2}}\n")
    with pytest.raises(CatalogError, match=r"catalog\.yaml, line 2: the key 'input_price'"):
        read_catalog(path)


def test_optional_prices_are_taken_over_and_written_only_where_given() -> None:
    plain = Candidate(
        name="a", input_price=1, output_price=2, tokens_per_second=50, time_to_first_token=0.5
    )
    assert not set(OPTIONAL_PRICES) & set(plain.model_dump())
    priced = plain.model_copy(update={"cached_input_price": 0.1, "input_price": 7.0})
    assert priced.model_dump()["cached_input_price"] == 0.1
    assert Candidate.model_validate_json(priced.model_dump_json()) == priced
    joined = plain.with_prices_of(priced)
    assert (joined.input_price, joined.cached_input_price) == (1.0, 0.1)
    assert plain.with_prices_of(None) is plain
    with pytest.raises(ValidationError):
        Candidate.model_validate({**plain.model_dump(), "cached_input_price": -1})
