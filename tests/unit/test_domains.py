from pathlib import Path

import numpy as np

from models.domains import Domains
from models.evaluation_set import EvaluationSet
from models.inputs import QueryInputs


def test_domains_find_the_task_families(
    split: tuple[EvaluationSet, EvaluationSet], train_inputs: QueryInputs
) -> None:
    queries = split[0].queries
    domains = Domains(count=8).fit(train_inputs.embeddings, queries["query"].tolist())
    assigned = domains.assign(train_inputs.embeddings)
    purity = sum(
        queries["source"][assigned == d].value_counts().max() for d in np.unique(assigned)
    ) / len(queries)
    assert purity > 0.7
    assert len(set(domains.names_)) == len(domains.names_)
    assert domains.sizes_.sum() == len(queries)


def test_saving_keeps_them(train_inputs: QueryInputs, tmp_path: Path) -> None:
    domains = Domains(3, seed=4).fit(train_inputs.embeddings, ["some words"] * len(train_inputs))
    domains.save(tmp_path)
    loaded = Domains.load(tmp_path)
    assert loaded.names_ == domains.names_
    np.testing.assert_array_equal(
        loaded.assign(train_inputs.embeddings), domains.assign(train_inputs.embeddings)
    )


def test_queries_without_words_still_have_a_domain(train_inputs: QueryInputs) -> None:
    domains = Domains(2).fit(train_inputs.embeddings[:60], ["1 + 1"] * 60)
    assert domains.names_ == ["domain 0", "domain 1"]
