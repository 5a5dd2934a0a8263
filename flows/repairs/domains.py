"""Repair: make a domain of queries that belong to no known one."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from flows.repairs.case import Case, Made, NotYet
from flows.steps import register_change
from flows.update_predictors import update_predictors
from models.domains.domains import Domains
from models.domains.taggers import FORMS, KeyphraseTagger
from models.release.change import replace_domains
from monitoring.drift.unseen_queries import unseen_queries

# Queries that make a domain, and graded answers from it that a predictor is refitted by.
LEAST_QUERIES: Final = 30
LEAST_IN_DOMAIN: Final = 30
# Phrases that name a new domain.
NAMED_BY: Final = 3


def recluster(case: Case) -> Made:
    """Make a domain of the queries of no known one; refit the candidates that answered enough."""
    version, folder, manifest = case.base()
    queries = unseen_queries(case.scene.engine, manifest.digest, case.alert.since_position)
    if len(queries.embeddings) < LEAST_QUERIES:
        raise NotYet(
            f"{len(queries.embeddings)} queries of no known domain, {LEAST_QUERIES} needed"
        )
    name = name_of(queries.texts, queries.others)
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary) / "release"
        domains = Domains.load(folder / manifest.domains.folder)
        replace_domains(folder, changed, domains.extended(queries.embeddings, name))
        change = f"alert {case.number}: domain {name!r} of {len(queries.embeddings)} queries"
        new: str = register_change(changed, version, change, None, case.scene.settings)
    case.note("recluster", change, f"release {new}")
    message, state = f"domain {name!r} of {len(queries.embeddings)} queries", None
    if case.scene.settings.data is not None:
        refits = update_predictors(case.data, new, LEAST_IN_DOMAIN)
        if refits["version"] is not None:
            new, state = refits["version"], refits["state"]
            message += f", refitted {', '.join(refits['refitted'])}"
    if state is None or (case.acts and state == "challenger"):
        state = case.settle(new)
    return Made(f"release {new}, {state}: {message}", new, state)


def name_of(texts: list[str], others: list[str]) -> str:
    """Name the queries by the phrases that set them apart from others, as training names domains;
    "new" where their texts are not kept."""
    if not texts:
        return "new"
    tagger = KeyphraseTagger(most=1.0).fit([*texts, *others])

    def shares(queries: list[str]) -> Counter[str]:
        totals: Counter[str] = Counter()
        for tags in tagger.tag(queries):
            totals.update({tag: 1 / len(queries) for tag in {*tags} - {*FORMS}})
        return totals

    mine = shares(texts)
    mine.subtract(shares(others) if others else {})
    return ", ".join(tag for tag, _ in mine.most_common(NAMED_BY)) or "new"
