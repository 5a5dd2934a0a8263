from collections.abc import Sequence

import numpy as np
import pytest

from models.domains.normalisation import merge_alike, normalise, plain_tag, prune_implied


class Letters:
    """Embeds a word by its letters, so that spellings of one word are alike."""

    def encode(self, queries: Sequence[str], *, progress: object = None) -> np.ndarray:
        rows = np.array(
            [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in queries]
        )
        norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        return np.asarray(rows / norms, np.float32)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [("Prime-Factors!", "prime factors"), ("C++", "c++"), ("  a__b ", "a b"), ("?!", "")],
)
def test_plain_tags(raw: str, plain: str) -> None:
    assert plain_tag(raw) == plain


def test_rare_tags_go_and_like_ones_merge() -> None:
    tags = [("Colour", "rare")] * 1 + [("colour", "x")] * 5 + [("colours", "poem")] * 3
    normal = normalise(tags, Letters(), least=2, merge_cosine=0.9)
    assert "rare" not in normal.names
    assert "colours" not in normal.names
    assert all("colour" in row for row in normal.tags)
    assert normal.merged["colours"] == "colour"
    assert dict(zip(normal.names, normal.counts.tolist(), strict=True))["colour"] == 9
    assert normal.apply([("COLOURS", "colour", "new")]) == [("colour",)]


def test_tags_do_not_merge_along_a_chain() -> None:
    angles = np.deg2rad([0, 20, 40])
    embeddings = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    merged = merge_alike(["a", "b", "c"], embeddings, cosine=np.cos(np.deg2rad(25)))
    assert merged == {"a": "a", "b": "a", "c": "c"}


def test_an_implied_tag_is_pruned() -> None:
    tags = [("python", "code")] * 20 + [("code",)] * 20 + [("poem", "code")] * 5
    pruned = prune_implied(tags)
    assert pruned[0] == ("python",)
    assert pruned[20] == ("code",)
    assert pruned[40] == ("poem", "code"), "too few to be a rule"


def test_of_two_that_imply_each_other_one_stays() -> None:
    assert prune_implied([("a", "b")] * 20) == [("a",)] * 20


def test_no_tags_at_all() -> None:
    normal = normalise([(), ("only once",)], Letters())
    assert normal.tags == [(), ()]
    assert normal.names == []
    assert normal.apply([("a",)]) == [()]
