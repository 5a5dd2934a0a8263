from pathlib import Path

import numpy as np
import pytest

from models.data.evaluation_set import EvaluationSet
from models.domains.audit import audit_tags, audit_text, plot_audit
from models.domains.clusters import COUNTS, TagClusters
from models.domains.domains import UNKNOWN, Domains
from models.domains.normalisation import NormalTags
from models.domains.tagged_queries import TaggedQueries
from models.encoder.inputs import QueryInputs
from models.errors import ReleaseError


def test_domains_find_the_task_families(
    split: tuple[EvaluationSet, EvaluationSet], tagged: TaggedQueries
) -> None:
    sources = split[0].queries["source"].tolist()
    audit = audit_tags(split[0].queries["query"].tolist(), sources, tagged)
    assert audit.nmi > 0.6
    assert audit.with_domain > 0.9
    assert sum(row["queries"] for row in audit.domains) == round(audit.with_domain * len(sources))
    assert len({row["name"] for row in audit.domains}) == len(audit.domains)


def test_auto_chooses_a_count_by_its_criterion(tagged: TaggedQueries) -> None:
    clusters = TagClusters("auto").fit(tagged.tags, tagged.embeddings)
    assert len(clusters.names_) in COUNTS
    again = TagClusters("auto").fit(tagged.tags, tagged.embeddings)
    assert again.cluster_ == clusters.cluster_


def test_saving_keeps_them(tagged: TaggedQueries, tmp_path: Path) -> None:
    domains = Domains().fit(tagged.embeddings, tagged.tags.tags, tagged.clusters)
    domains.save(tmp_path)
    loaded = Domains.load(tmp_path)
    assert loaded.names_ == domains.names_
    np.testing.assert_array_equal(
        loaded.assign(tagged.embeddings), domains.assign(tagged.embeddings)
    )
    assert loaded.place(tagged.embeddings[0]) == domains.place(tagged.embeddings[0])
    np.testing.assert_array_equal(
        loaded.clusters_.assign(tagged.tags.tags), domains.clusters_.assign(tagged.tags.tags)
    )
    (tmp_path / "domains.json").write_text('{"format_version": 1}')
    with pytest.raises(ReleaseError, match="train the release again"):
        Domains.load(tmp_path)


def test_what_lies_far_from_all_is_unknown(tagged: TaggedQueries) -> None:
    domains = Domains().fit(tagged.embeddings, tagged.tags.tags, tagged.clusters)
    away = -tagged.embeddings.mean(axis=0)
    name, score = domains.place(away / np.linalg.norm(away))
    assert name == UNKNOWN
    assert score > 1
    inside = [domains.place(embedding) for embedding in tagged.embeddings]
    assert np.mean([name == UNKNOWN for name, _ in inside]) < 0.05


def test_untagged_queries_are_unknown_never_dropped(train_inputs: QueryInputs) -> None:
    rows = train_inputs.embeddings[:60]
    tags: list[tuple[str, ...]] = [("sums",)] * 20 + [()] * 40
    clusters = TagClusters(2).fit(
        NormalTags(tags, ["sums"], np.array([20]), {"sums": "sums"}), rows
    )
    assert clusters.assign(tags).tolist() == [0] * 20 + [-1] * 40
    domains = Domains().fit(rows, tags, clusters)
    assert domains.names_ == ["sums"]
    assert domains.unknown_ == 40


def test_queries_without_any_tag_are_one_unknown_domain(train_inputs: QueryInputs) -> None:
    rows = train_inputs.embeddings[:60]
    clusters = TagClusters().fit(NormalTags([()] * 60, [], np.zeros(0, int), {}), rows)
    domains = Domains().fit(rows, [()] * 60, clusters)
    assert domains.names_ == [UNKNOWN]
    assert domains.unknown_ == 60


def test_the_audit_shows_who_has_no_domain(tagged: TaggedQueries, tmp_path: Path) -> None:
    fewer = tagged.domains.copy()
    fewer[:30] = -1
    shown = TaggedQueries(tagged.tags, tagged.clusters, fewer, tagged.embeddings)
    queries = [f"query {i}" for i in range(len(fewer))]
    audit = audit_tags(queries, ["here"] * len(fewer), shown)
    assert sum(group["queries"] for group in audit.untagged) == int((fewer < 0).sum())
    assert audit.untagged[0]["examples"][0].startswith("query ")
    assert audit.table[-1].sum() == int((fewer < 0).sum())
    assert "Queries without a domain" in audit_text(audit)
    plot_audit(audit, tmp_path / "domains.png")
    assert (tmp_path / "domains.png").read_bytes().startswith(b"\x89PNG")
