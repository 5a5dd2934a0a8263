"""The audit of tags: who has none, how large the domains are, how well they fit the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from models import escape
from models.domains.domains import UNKNOWN
from models.domains.tagged_queries import TaggedQueries
from models.markdown_table import markdown_table

GROUPS: Final = 5
EXAMPLES: Final = 3
EXAMPLE_CHARACTERS: Final = 120
SOURCES_SHOWN: Final = 12


@dataclass(frozen=True)
class TagAudit:
    """tagged: share of queries with any tag. with_domain: share with a domain. nmi, ari: domains
    against sources, over the queries that have one (normalised mutual information, adjusted Rand
    index; 1 is the same grouping). domains: name, queries, tags, purity (share of its most frequent
    source), source. untagged: the largest groups of queries without a domain, with examples.
    table: (domains + 1, sources) queries, unknown last."""

    queries: int
    tagged: float
    with_domain: float
    tags: int
    nmi: float
    ari: float
    domains: list[dict[str, Any]]
    untagged: list[dict[str, Any]]
    sources: list[str]
    table: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        return {
            "tagged": self.tagged,
            "with_domain": self.with_domain,
            "tags": float(self.tags),
            "domains": float(len(self.domains)),
            "nmi": self.nmi,
            "ari": self.ari,
        }


def audit_tags(
    queries: Sequence[str], sources: Sequence[str], tagged: TaggedQueries, seed: int = 0
) -> TagAudit:
    """sources: (n,) what each query came from; known to the audit, never to a router."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    origin = np.asarray(sources, dtype=object)
    known = tagged.domains >= 0
    names, numbers = np.unique(origin, return_inverse=True)
    table = np.zeros((len(tagged.clusters.names_) + 1, len(names)), dtype=int)
    np.add.at(table, (tagged.domains, numbers), 1)  # −1, the unknown, is the last row
    several = known.any()
    return TagAudit(
        queries=len(queries),
        tagged=float(np.mean([bool(row) for row in tagged.tags.tags])),
        with_domain=float(known.mean()),
        tags=len(tagged.tags.names),
        nmi=float(normalized_mutual_info_score(numbers[known], tagged.domains[known]))
        if several
        else 0.0,
        ari=float(adjusted_rand_score(numbers[known], tagged.domains[known])) if several else 0.0,
        domains=[
            {
                "name": name,
                "queries": int(table[i].sum()),
                "tags": sum(c == i for c in tagged.clusters.cluster_.values()),
                "purity": float(table[i].max() / max(table[i].sum(), 1)),
                "source": str(names[table[i].argmax()]) if table[i].any() else "",
            }
            for i, name in enumerate(tagged.clusters.names_)
        ],
        untagged=_groups(queries, origin, tagged.embeddings, ~known, seed),
        sources=[str(name) for name in names],
        table=table,
    )


def _groups(
    queries: Sequence[str], origin: np.ndarray, embeddings: np.ndarray, rows: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """The queries of ``rows`` (bool) in a few groups of like ones, the largest first."""
    from sklearn.cluster import KMeans

    places = np.flatnonzero(rows)
    if len(places) == 0:
        return []
    means = KMeans(min(GROUPS, len(places)), n_init=4, random_state=seed).fit(embeddings[places])
    distance = means.transform(embeddings[places])
    found = []
    for group in np.unique(means.labels_):
        members = np.flatnonzero(means.labels_ == group)
        nearest = members[np.argsort(distance[members, group], kind="stable")][:EXAMPLES]
        sources, counts = np.unique(origin[places[members]], return_counts=True)
        found.append(
            {
                "queries": len(members),
                "source": str(sources[counts.argmax()]),
                "examples": [
                    " ".join(queries[places[i]].split())[:EXAMPLE_CHARACTERS] for i in nearest
                ],
            }
        )
    return sorted(found, key=lambda group: -group["queries"])


def audit_text(audit: TagAudit) -> str:
    """The audit as Markdown."""
    rows = [
        (
            escape.markdown(row["name"]),
            row["queries"],
            row["tags"],
            escape.markdown(row["source"]),
            f"{row['purity']:.0%}",
        )
        for row in sorted(audit.domains, key=lambda row: -row["queries"])
    ]
    lines = [
        f"{audit.queries} queries, {audit.tags} tags, {len(audit.domains)} domains: "
        f"{audit.with_domain:.1%} of the queries have a domain ({audit.tagged:.1%} a tag). "
        f"Against the sources: NMI {audit.nmi:.3f}, ARI {audit.ari:.3f}.",
        "",
        markdown_table(("domain", "queries", "tags", "most frequent source", "its share"), rows),
    ]
    if audit.untagged:
        lines += ["", "Queries without a domain, in groups of like ones:", ""]
    for group in audit.untagged:
        lines.append(
            f"- {group['queries']} queries, most of {escape.markdown(group['source'])}, such as:"
        )
        lines += [f"  - {escape.markdown(example)}" for example in group["examples"]]
    return "\n".join(lines) + "\n"


def plot_audit(audit: TagAudit, path: Path) -> None:
    """Domain sizes, coloured by source; unknown last. path: .png or .svg."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [escape.label(row["name"]) for row in audit.domains]
    order = [*np.argsort([-row["queries"] for row in audit.domains], kind="stable"), len(names)]
    figure = Figure(figsize=(9, 0.3 * len(order) + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = np.argsort(-audit.table.sum(axis=0), kind="stable")
    left = np.zeros(len(order))
    for place, source in enumerate(shown[:SOURCES_SHOWN]):
        width = audit.table[order, source]
        colour = colormaps["tab20"](place)
        axes.barh(
            range(len(order)),
            width,
            left=left,
            color=colour,
            label=escape.label(audit.sources[source]),
        )
        left += width
    rest = audit.table[order][:, shown[SOURCES_SHOWN:]].sum(axis=1)
    if rest.any():
        axes.barh(range(len(order)), rest, left=left, color="0.7", label="other sources")
    axes.set_yticks(range(len(order)), [*(names[i] for i in order[:-1]), UNKNOWN], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("queries")
    axes.set_title(
        f"{len(names)} domains; NMI {audit.nmi:.3f}, ARI {audit.ari:.3f} against sources"
    )
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=150)
