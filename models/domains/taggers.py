"""Tags: the fine-grained intents of a query, from one of several taggers, kept by query digest.

Taggers: ``KeyphraseTagger`` (here, no LLM), ``InsTagger`` (``models/domains/instagger.py``, a Hugging
Face causal LM) and ``LLMTagger`` (``infra/training/llm_tagger.py``, any OpenAI-compatible endpoint).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final, Protocol

import numpy as np

from models.digest import digest_json

Tags = tuple[str, ...]
# A tag is a short phrase; what is longer is an explanation that lost its way.
MAX_TAG_CHARACTERS: Final = 60
# What a query says of its own form; each is a tag.
FORMS: Final = {
    "multiple choice": re.compile(r"^\(?A[.):]\s.*^\(?B[.):]\s", re.MULTILINE | re.DOTALL),
    "code": re.compile(
        r"```|^\s*(?:def |class |import |from \w+ import|#include|public |function )|\[PYTHON\]"
        r"|^\s*SELECT\s",
        re.MULTILINE,
    ),
    "mathematical notation": re.compile(
        r"\\(?:frac|sqrt|int|sum|begin|cdot|le|ge|pi|alpha)|\$[^$]{1,200}\$|[a-z]\^[0-9{]"
    ),
    "money": re.compile(r"[$€£]\s?\d|\b(?:dollars|cents|euros)\b", re.IGNORECASE),
    "quantities": re.compile(r"(?:\b\d[\d,.]*\b.*?){4}", re.DOTALL),
    "fill in the blank": re.compile(r"_{3,}"),
    "translation": re.compile(r"\btranslate\b.{0,80}\b(?:to|into)\b", re.IGNORECASE | re.DOTALL),
    "summary": re.compile(r"\b(?:summari[sz]e|tl;?dr)\b", re.IGNORECASE),
    "writing": re.compile(
        r"\bwrite (?:an?|the|me)\b.{0,60}"
        r"\b(?:essay|story|poem|e-?mail|letter|article|speech|song|post)\b",
        re.IGNORECASE | re.DOTALL,
    ),
    "list": re.compile(r"\b(?:list|name|give)\s+(?:all|\d+|some|three|five|ten)\b", re.IGNORECASE),
    "explanation": re.compile(r"^\s*(?:explain|why|how (?:do|does|can))\b", re.IGNORECASE),
}
READ_CHARACTERS: Final = 20_000


class Tagger(Protocol):
    """Queries → their tags. digest: what the tags depend on besides the query."""

    @property
    def digest(self) -> str: ...

    def tag(
        self, queries: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Tags]:
        """Tags of each query, most telling first; () where none was found."""
        ...


class KeyphraseTagger:
    """Tags without an LLM: the form of the task (``FORMS``) and the query's telling phrases.

    A phrase is one or two words whose TF-IDF weight in the query is among the ``count`` highest; a
    word inside a chosen pair is not a tag of its own. Phrases of fewer than ``least`` queries, or of
    more than ``most`` of them, are no tags.
    Learned: vocabulary_ (phrase → number), idf_ (v,).
    """

    def __init__(self, count: int = 10, least: int = 3, most: float = 0.1) -> None:
        self.count = count
        self.least = least
        self.most = most

    def fit(self, queries: Sequence[str]) -> KeyphraseTagger:
        """Learn which phrases are telling. Queries without any word leave only the forms."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        most = max(self.most, (self.least + 1) / max(len(queries), 1))
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2),
            stop_words="english",
            token_pattern=r"(?<![^\W\d_])[^\W\d_]{3,30}(?![^\W\d_])",
            min_df=min(self.least, max(len(queries), 1)),
            max_df=min(most, 1.0),
            sublinear_tf=True,
        )
        try:
            vectorizer.fit(query[:READ_CHARACTERS] for query in queries)
        except ValueError:  # no phrase is left
            self._vectorizer, self.vocabulary_, self.idf_ = None, {}, np.zeros(0)
            return self
        self._vectorizer = vectorizer
        self.vocabulary_ = {phrase: int(i) for phrase, i in vectorizer.vocabulary_.items()}
        self.idf_ = vectorizer.idf_
        return self

    @property
    def digest(self) -> str:
        settings = [self.count, self.least, self.most, {k: v.pattern for k, v in FORMS.items()}]
        return digest_json(["keyphrase", settings, self.vocabulary_, self.idf_.round(9).tolist()])

    def tag(
        self, queries: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Tags]:
        texts = [query[:READ_CHARACTERS] for query in queries]
        phrases = self._phrases(texts)
        if progress is not None:
            progress(len(texts))
        return [(*forms_of(text), *found) for text, found in zip(texts, phrases, strict=True)]

    def _phrases(self, texts: Sequence[str]) -> list[Tags]:
        if self._vectorizer is None or not texts:
            return [() for _ in texts]
        names = self._vectorizer.get_feature_names_out()
        weights = self._vectorizer.transform(texts).tocsr()
        found = []
        for row in range(len(texts)):
            part = slice(weights.indptr[row], weights.indptr[row + 1])
            phrases = names[weights.indices[part]]
            # Of phrases that tell as much, the longer, then the first in the alphabet.
            words = np.array([-phrase.count(" ") for phrase in phrases], dtype=int)
            order = np.lexsort((phrases, words, -weights.data[part].round(6)))
            found.append(self._chosen(phrases[order].tolist()))
        return found

    def _chosen(self, ranked: Sequence[str]) -> Tags:
        chosen: list[str] = []
        for phrase in ranked:
            words = set(phrase.split())
            if any(words & set(other.split()) for other in chosen):
                continue
            chosen.append(phrase)
            if len(chosen) == self.count:
                break
        return tuple(chosen)


def forms_of(query: str) -> Tags:
    """The forms of ``FORMS`` that a query has."""
    return tuple(name for name, pattern in FORMS.items() if pattern.search(query))


def parse_tags(text: str) -> Tags:
    """Tags from what an LLM wrote: JSON if it is, else every ``"tag": "…"`` that can be found.

    Truncated, repeated and wrapped answers are read as far as they go; explanations are dropped.
    """
    found: list[str] = []
    start = min((i for i in (text.find("["), text.find("{")) if i >= 0), default=-1)
    if start >= 0:
        try:
            value, _ = json.JSONDecoder().raw_decode(text[start:])
            found = list(_tags_in(value))
        except (json.JSONDecodeError, RecursionError):
            found = []
    if not found:
        quoted = re.findall(r'"(?:tag|tags|name)"\s*:\s*("(?:[^"\\]|\\.)*")', text)
        found = [json.loads(tag, strict=False) for tag in quoted if _is_json(tag)]
    cleaned = (" ".join(tag.split()) for tag in found)
    kept = (tag for tag in cleaned if 0 < len(tag) <= MAX_TAG_CHARACTERS)
    return tuple(dict.fromkeys(kept))


def _tags_in(value: object) -> chain[str] | list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return chain.from_iterable(_tags_in(item) for item in value)
    if isinstance(value, dict):
        named = [value[key] for key in ("tag", "tags", "name") if key in value]
        return chain.from_iterable(_tags_in(item) for item in named)
    return []


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except json.JSONDecodeError:
        return False
    return True
