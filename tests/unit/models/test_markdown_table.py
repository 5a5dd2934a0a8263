import pytest

from models.markdown_table import markdown_table


def test_heads_a_rule_and_rows() -> None:
    assert markdown_table(("LLM", "AIQ"), [("a", 0.5), ("b", "")]) == (
        "| LLM | AIQ |\n| --- | --- |\n| a | 0.5 |\n| b |  |"
    )


def test_no_rows_leave_the_heads() -> None:
    assert markdown_table(("LLM",), []) == "| LLM |\n| --- |"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells under 2 heads"):
        markdown_table(("a", "b"), [(1, 2, 3)])
