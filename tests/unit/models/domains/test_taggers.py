import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from models.domains.instagger import InsTagger
from models.domains.tag_cache import TagCache
from models.domains.taggers import KeyphraseTagger, Tags, forms_of, parse_tags
from models.errors import TaggingError

QUERIES = [
    "Sum the prime factors of 84 and of 90, then compare them with 12 and 15.",
    "Which prime factors does 97 have? Name the prime factors of 10, 12, 14 and 16 too.",
    "Write a short poem about an autumn harbour.",
    "Write the poem of a winter harbour.",
    "def f(x):\n    return x + 1\nWhat is f(3)?",
    "Translate 'good morning' into French.",
]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('[{"tag": "maths", "explanation": "sums"}, {"tag": "poem"}]', ("maths", "poem")),
        ('{"tag": "maths", "explanation": "a"}', ("maths",)),
        ('Sure! [{"tag": "a b"}, {"tag": "a  b"}] Anything else?', ("a b",)),
        ('[{"tag": "first", "explanation": "x"}, {"tag": "second", "expl', ("first", "second")),
        ('[{"tag": "cut off", "explanation": "it goes on and', ("cut off",)),
        ('["maths", "poem"]', ("maths", "poem")),
        ('{"tags": ["maths", "poem"]}', ("maths", "poem")),
        ('[{"tag": null}, {"tag": 3}, {"tag": ""}]', ()),
        ('[{"tag": "' + "x" * 500 + '"}]', ()),
        ("no JSON at all", ()),
        ("[" * 100_000, ()),
        ('{"tag": "line\nbreak"}', ("line break",)),
        ("", ()),
    ],
)
def test_tags_are_read_from_whatever_an_llm_writes(text: str, tags: Tags) -> None:
    assert parse_tags(text) == tags


def test_keyphrases_are_the_form_and_the_topic() -> None:
    tags = KeyphraseTagger(least=2, most=1.0).fit(QUERIES).tag(QUERIES)
    assert "prime factors" in tags[0]
    assert "prime factors" in tags[1]
    assert "quantities" in tags[0]
    assert "harbour" in tags[2]
    assert "writing" in tags[2]
    assert "code" in tags[4]
    assert "translation" in tags[5]
    assert tags == KeyphraseTagger(least=2, most=1.0).fit(QUERIES).tag(QUERIES)


@pytest.mark.parametrize("query", ["", "1 + 1", "🙂" * 10, "\x00", "\ud800", "a" * 100_000])
def test_odd_queries_are_tagged_or_left_without(query: str) -> None:
    tagger = KeyphraseTagger().fit([query])
    assert tagger.tag([query, *QUERIES])[0] == forms_of(query)
    assert tagger.tag([]) == []


class Counting:
    """A tagger that remembers what it was asked."""

    digest = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tag(
        self, queries: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Tags]:
        self.asked += queries
        if "fail" in queries:
            raise TaggingError("the endpoint is gone")
        return [(query.split()[0], "tag") for query in queries]


def test_only_new_queries_are_tagged(tmp_path: Path) -> None:
    first = Counting()
    assert TagCache(tmp_path, first).tag(["a b", "c d", "a b"]) == [
        ("a", "tag"),
        ("c", "tag"),
        ("a", "tag"),
    ]
    assert first.asked == ["a b", "c d"]
    again = Counting()
    cache = TagCache(tmp_path, again)
    assert cache.missing(["c d", "e f", "e f"]) == ["e f"]
    assert cache.tag(["c d", "e f"]) == [("c", "tag"), ("e", "tag")]
    assert again.asked == ["e f"]


def test_what_was_tagged_before_a_failure_or_a_kill_is_kept(tmp_path: Path) -> None:
    many = [f"q{i}" for i in range(300)]
    cache = TagCache(tmp_path, Counting())
    with pytest.raises(TaggingError):
        cache.tag([*many, "fail"])
    with cache.path.open("a") as handle:
        handle.write('["half a li')
    again = TagCache(tmp_path, Counting())
    assert len(again.missing(many)) == 300 - 256
    again.tag(many)
    assert TagCache(tmp_path, Counting()).missing(many) == []


@pytest.fixture(scope="module")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal LM of two small layers with random weights and a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("lm")
    words = ["<unk>", "<s>", "</s>", '[{"tag":', '"maths"}]', '"poem"}]', *"abcdefghij"]
    plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def test_instagger_loads_and_generates_in_batches(tiny_lm: Path) -> None:
    tagger = InsTagger(tiny_lm, batch_size=2, max_new_tokens=6, max_prompt_tokens=20)
    done: list[int] = []
    queries = ["a b c", "d " * 100, "e", "f g"]
    tags = tagger.tag(queries, done.append)
    assert len(tags) == 4
    assert sum(done) == 4
    alone = [InsTagger(tiny_lm, 1, 6, 20).tag([query])[0] for query in queries]
    assert tags == alone, "padding on the left changes nothing"


def test_instagger_reads_what_the_model_writes(
    tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    def write(self: object, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        answer = torch.tensor([[3, 4, 2]] * len(input_ids))
        return torch.cat([input_ids, answer], dim=1)

    monkeypatch.setattr(LlamaForCausalLM, "generate", write)
    assert InsTagger(tiny_lm).tag(["a", "b c"]) == [("maths",), ("maths",)]


def test_a_model_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TaggingError, match=r"cannot be loaded.*use the keyphrase tagger"):
        InsTagger(tmp_path / "nothing").tag(["a"])


def test_a_cache_line_is_json(tmp_path: Path) -> None:
    cache = TagCache(tmp_path, Counting())
    cache.tag(["a b"])
    ((key, tags),) = (json.loads(line) for line in cache.path.read_text().splitlines())
    assert len(key) == 64
    assert tags == ["a", "tag"]
