"""The steps of a training that keep things under home: tags, encoders, embeddings.

What flows and the command line share. ``progress`` is called with the number of items just done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.registry.records import CHAMPION
from infra.registry.registry import Registry
from infra.settings import Settings
from infra.training.encoder_store import built_encoder, clustering_encoder
from infra.training.llm_tagger import LLMTagger
from infra.training.taggers import make_tagger
from models.data.evaluation_set import EvaluationSet
from models.domains.tag_cache import TagCache
from models.domains.tagged_queries import TaggedQueries, tagged_queries
from models.encoder.cache import EmbeddingCache
from models.encoder.inputs import QueryInputs, read_queries
from models.encoder.onnx import OnnxEncoder
from models.encoder_tuning.data import TuningData
from models.errors import NoRelease
from models.training_options import TrainingOptions

log = logging.getLogger("mixllm.training")
Progress = Callable[[int], None] | None


def tag(
    queries: Sequence[str], options: TrainingOptions, settings: Settings, progress: Progress = None
) -> TaggedQueries:
    """Tags and domains of the queries; only queries never seen are tagged."""
    tagger = make_tagger(options.tagger, settings, queries)
    cache = TagCache(settings.home / "tags", tagger)
    new = cache.missing(queries)
    if isinstance(tagger, LLMTagger):
        log.warning("tagging by %s will take about: %s", tagger.chat.model, tagger.estimate(new))
    tags = cache.tag(queries, progress)
    if isinstance(tagger, LLMTagger):
        log.warning("tagging by %s took: %s", tagger.chat.model, tagger.spent)
    log.info("%d queries tagged, the rest were already", len(new))
    embedder = embedding_cache(clustering_encoder(settings.home), settings)
    return tagged_queries(queries, tags, embedder, options.domains, options.tuning.seed)


def encoder_folder(
    train: EvaluationSet,
    tagged: TaggedQueries | None,
    options: TrainingOptions,
    settings: Settings,
    progress: Progress = None,
) -> Path:
    """The encoder that the options ask for; built unless one of the same identity is there.

    tagged: the training queries'; None where no domain is needed. progress: called with the per
    cent just done. Raises NoRelease for ``reuse`` before anything was promoted.
    """
    if options.encoder == "reuse":
        registry = Registry.of(settings)
        version = registry.alias(CHAMPION)
        if version is None:
            raise NoRelease("no release is champion yet, so there is no encoder to reuse")
        return registry.fetch(version) / "encoder"
    domains = tagged.domains if tagged is not None else None
    data = TuningData.of(train, domains)
    tune = options.encoder == "fine-tune"
    advance = per_cent(progress)
    folder = built_encoder(settings.home, data, options.tuning, tune=tune, progress=advance)
    advance(1, 1)
    return folder


def per_cent(progress: Progress) -> Callable[[int, int], None]:
    """(done, in all) → the per cent points gained since the last call."""
    shown = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown
        now = 100 * done // max(total, 1)
        if progress is not None:
            progress(now - shown)
        shown = now

    return advance


def embed(
    queries: Sequence[str], folder: Path, settings: Settings, progress: Progress = None
) -> QueryInputs:
    """Predictor inputs of the queries; embeddings come from the cache where they can."""
    cache = embedding_cache(folder, settings)
    inputs = read_queries(queries, cache.encoder, cache, progress)
    log.info("%d queries embedded, the rest were already", cache.embedded)
    return inputs


def embedding_cache(folder: Path, settings: Settings) -> EmbeddingCache:
    return EmbeddingCache(
        settings.home / "embeddings", OnnxEncoder(folder, threads=os.cpu_count() or 2)
    )
