import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.encoder.cache import EmbeddingCache
from models.encoder.onnx import OnnxEncoder
from models.encoder_tuning.export import packaged_model_folder
from models.errors import EncoderError
from models.queries.text import MAX_TOKENS, window

QUERIES = ["What is 2 + 2?", "Write a haiku about rain.", "def f(x): return x * 2  # what is f(3)?"]


def test_embeddings_are_those_of_the_pretrained_model(encoder: OnnxEncoder) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = packaged_model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    for query, embedding in zip(QUERIES, encoder.encode(QUERIES), strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer([query], return_tensors="pt"))[0][0].mean(0)
        expected = (hidden / hidden.norm()).numpy()
        assert float(expected @ embedding) == pytest.approx(1.0, abs=1e-5)


def test_rows_are_unit_and_do_not_depend_on_the_batch(encoder: OnnxEncoder) -> None:
    together = encoder.encode([*QUERIES, "x " * 3000])
    alone = np.concatenate([encoder.encode([query]) for query in QUERIES])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(together[:3], alone, atol=1e-4)
    assert encoder.encode([]).shape == (0, encoder.dimension)


@pytest.mark.parametrize("query", ["🙂" * 50, "\x00\x01\x02", "\ud800 lone", " a " * 70_000])
def test_odd_texts_have_an_embedding(query: str, encoder: OnnxEncoder) -> None:
    embedding = encoder.encode([query])
    assert np.isfinite(embedding).all()
    assert len(encoder.tokenize(query).ids) <= MAX_TOKENS


def test_a_long_query_is_read_at_its_end(encoder: OnnxEncoder) -> None:
    examples = "Question: who wrote Hamlet? Answer: Shakespeare. " * 200
    sums, poems = (examples + tail for tail in ("Now compute 12 * 13.", "Now write a poem."))
    assert encoder.tokenize(sums).ids != encoder.tokenize(poems).ids
    assert encoder.tokenize(sums).count == pytest.approx(9 * 200, rel=0.5)


def test_the_window_keeps_head_and_tail() -> None:
    assert window(list(range(10)), 100) == list(range(10))
    kept = window(list(range(1000)), 102)
    assert len(kept) == 100
    assert kept[:25] == list(range(25))
    assert kept[25:] == list(range(925, 1000))


def test_a_second_run_embeds_nothing(encoder: OnnxEncoder, tmp_path: Path) -> None:
    first = EmbeddingCache(tmp_path, encoder)
    rows = first.encode([*QUERIES, QUERIES[0]])
    assert first.embedded == 3
    second = EmbeddingCache(tmp_path, encoder)
    np.testing.assert_array_equal(second.encode([*QUERIES, QUERIES[0]]), rows)
    assert second.embedded == 0


def test_a_cache_cut_short_is_mended(encoder: OnnxEncoder, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, encoder)
    rows = cache.encode(QUERIES)
    with cache.rows_path.open("r+b") as handle:
        handle.truncate(cache.rows_path.stat().st_size - 7)
    again = EmbeddingCache(tmp_path, encoder)
    np.testing.assert_allclose(again.encode(QUERIES), rows, atol=1e-5)
    assert again.embedded == 1


def test_a_folder_that_is_no_encoder_is_named(encoder_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"lacks encoder\.onnx"):
        OnnxEncoder(tmp_path)
    copy = shutil.copytree(encoder_folder, tmp_path / "copy")
    config = json.loads((copy / "encoder.json").read_text())
    (copy / "encoder.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(EncoderError, match="format_version is 99"):
        OnnxEncoder(copy)
