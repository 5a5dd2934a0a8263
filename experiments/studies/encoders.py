"""The encoder's ablation: which tuning routes best, over evaluation sets and seeds.

    python -m experiments.studies.encoders --data ../shared/data/mmlu_pro \
        --data ../shared/data/zeroeval --joined
    python -m experiments.studies.encoders --table

Every run is one line of ``benchmarks/results/encoders.jsonl`` and is not run again; ``--table`` prints
what is there as Markdown. ``--leave-out SOURCE`` trains without a source and tests on it alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score

from infra.training.encoder_store import prepared_encoder
from models.data.evaluation_set import EvaluationSet, comparable
from models.data.files import read_evaluation_set
from models.digest import digest_json
from models.domains.clusters import TagClusters
from models.domains.normalisation import NormalTags, normalise
from models.domains.taggers import KeyphraseTagger
from models.domains.unseen import UnseenScore
from models.encoder.cache import EmbeddingCache
from models.encoder.inputs import QueryInputs
from models.encoder.onnx import OnnxEncoder
from models.encoder_tuning.data import TuningData
from models.encoder_tuning.settings import TuningSettings
from models.encoder_tuning.tuning import EncoderTuning
from models.encoder_tuning.validation import domain_separation, mean_auc
from models.evaluation.evaluate import oracle_of, outcome_of, sweep
from models.evaluation.fitted_router import FittedRouter
from models.evaluation.measures import MEASURES, Routed, drawn_measures, interval
from models.evaluation.willingness import willingness_grid
from models.markdown_table import markdown_table
from models.predictors.families import DEFAULT_FAMILIES, FAMILIES
from models.predictors.fitting import NewMaps
from models.queries.form import query_forms

RESULTS: Final = Path(__file__).parents[2] / "benchmarks" / "results" / "encoders.jsonl"
# Which weights of the losses, and whose domains.
VARIANTS: Final[dict[str, tuple[float, float, str]]] = {
    "frozen": (0.0, 0.0, "tags"),
    "tags": (0.5, 0.0, "tags"),
    "tags + routing": (0.05, 1.0, "tags"),
    "routing": (0.0, 1.0, "tags"),
    "k-means": (0.5, 0.0, "k-means"),
}
DRAWS: Final = 500


@dataclass(frozen=True)
class Parts:
    """One evaluation set's training and test halves. seen: unseen queries of sources that are in the
    training half, where the test half's source is not."""

    train: EvaluationSet
    test: EvaluationSet
    seen: EvaluationSet | None = None


@dataclass(frozen=True)
class Made:
    """Embeddings of the training queries, of each set's test queries and of its seen ones; which
    training queries the tuning did not learn from; what is told of the tuning."""

    train: np.ndarray
    test: list[np.ndarray]
    seen: list[np.ndarray]
    held: np.ndarray
    report: dict[str, Any]

    def save(self, path: Path) -> None:
        arrays = {"train": self.train, "held": self.held.astype(np.uint8)}
        arrays |= {f"test.{i}": found for i, found in enumerate(self.test)}
        arrays |= {f"seen.{i}": found for i, found in enumerate(self.seen)}
        save_file(arrays, path, {"report": json.dumps(self.report)})

    @classmethod
    def load(cls, path: Path) -> Made:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            report = json.loads(file.metadata()["report"])
        test, seen = (
            [found for name, found in sorted(arrays.items()) if name.startswith(kind)]
            for kind in ("test.", "seen.")
        )
        return cls(arrays["train"], test, seen, arrays["held"].astype(bool), report)


class Bench:
    """Runs variants on sets; what does not depend on the variant is made once."""

    def __init__(
        self, sets: list[Parts], home: Path, settings: dict[str, Any], families: list[str]
    ) -> None:
        self.sets, self.home, self.settings, self.families = sets, home, settings, families
        self.queries = [q for part in sets for q in part.train.queries["query"]]
        self.packaged = OnnxEncoder(prepared_encoder(home), threads=2)
        self.cache = EmbeddingCache(home / "embeddings", self.packaged)
        self.frozen = self.cache.encode(self.queries)
        self.tagger = KeyphraseTagger().fit(self.queries)
        self.tags: NormalTags = normalise(self.tagger.tag(self.queries), self.cache)
        widths = [len(part.train.candidates) for part in sets]
        ends = np.cumsum(widths)
        shape = (len(self.queries), int(ends[-1]))
        self.quality, self.cost = np.full(shape, np.nan), np.full(shape, np.nan)
        row = 0
        for part, end, width in zip(sets, ends, widths, strict=True):
            rows = slice(row, row + len(part.train.queries))
            self.quality[rows, end - width : end] = part.train.matrix("quality")
            self.cost[rows, end - width : end] = part.train.matrix("cost_usd")
            row = rows.stop

    def clusters(self, seed: int) -> TagClusters:
        return TagClusters(seed=seed).fit(self.tags, self.frozen)

    def domains(self, kind: str, seed: int) -> np.ndarray:
        """(n,) the training queries' domains."""
        if kind == "tags":
            return self.clusters(seed).assign(self.tags.tags)
        from sklearn.cluster import KMeans

        means = KMeans(20, n_init=4, random_state=seed).fit(self.frozen)
        return np.asarray(means.labels_)

    def run(self, variant: str, seed: int) -> dict[str, Any]:
        made = self.made(variant, seed)
        domains = self.domains(VARIANTS[variant][2], seed)
        row, sets = 0, []
        for i, part in enumerate(self.sets):
            rows = slice(row, row + len(part.train.queries))
            row = rows.stop
            learned = made.held if made.report else None
            train = self.inputs(self.queries[rows], made.train[rows], learned, rows)
            test = self.inputs(part.test.queries["query"].tolist(), made.test[i], None, rows)
            found = {"set": part.train.name, **self.measure(part, train, test, domains[rows])}
            if part.seen is not None:
                found |= unseen_measures(train.embeddings, made.seen[i], made.test[i])
            sets.append(found)
        return {"variant": variant, "seed": seed, **made.report, "sets": sets}

    def made(self, variant: str, seed: int) -> Made:
        """What a variant makes of every query; kept, so that other predictors need no new tuning."""
        asked = {"variant": variant, "seed": seed, "settings": self.settings}
        path = self.home / "made" / f"{digest_json(asked)[:16]}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.make(variant, seed).save(path)
        return Made.load(path)

    def make(self, variant: str, seed: int) -> Made:
        tests = [part.test.queries["query"].tolist() for part in self.sets]
        seen = [part.seen.queries["query"].tolist() for part in self.sets if part.seen is not None]
        if variant == "frozen":
            encode = self.cache.encode
            held = np.ones(len(self.queries), dtype=bool)
            return Made(
                self.frozen, [encode(t) for t in tests], [encode(t) for t in seen], held, {}
            )
        domain_weight, routing_weight, kind = VARIANTS[variant]
        settings = TuningSettings(
            **{**self.settings, "seed": seed},
            domain_weight=domain_weight,
            routing_weight=routing_weight,
        )
        data = TuningData(self.queries, self.domains(kind, seed), self.quality, self.cost)
        tuned = EncoderTuning(settings, self.home / "tuning").fit(data)
        shutil.rmtree(self.home / "tuning" / "checkpoint", ignore_errors=True)
        found = tuned.report_
        report = {
            "epochs": found.epochs,
            "best_epoch": found.best_epoch,
            "seconds": round(found.seconds, 1),
            "peak_megabytes": round(found.peak_megabytes),
        }
        embed = tuned.embed_new
        return Made(
            tuned.embed(),
            [embed(t) for t in tests],
            [embed(t) for t in seen],
            tuned.held_,
            report,
        )

    def inputs(
        self, queries: list[str], embeddings: np.ndarray, held: np.ndarray | None, rows: slice
    ) -> QueryInputs:
        tokens = np.array([self.packaged.tokenize(query).count for query in queries])
        return QueryInputs(
            embeddings, query_forms(queries), tokens, None if held is None else held[rows]
        )

    def measure(
        self, part: Parts, train: QueryInputs, test: QueryInputs, domains: np.ndarray
    ) -> dict[str, Any]:
        names, kept, _ = comparable(part.train, part.test)
        rows = part.test.queries["query_id"].isin(kept.queries["query_id"]).to_numpy()
        router = FittedRouter.fit(part.train, train, "benchmark", names, NewMaps(self.families))
        predictors = router.predictors
        compiled = router.compiled(catalog=part.test.catalog)
        estimates = compiled.estimate(test[rows])
        quality, cost = kept.matrix("quality", names), kept.matrix("cost_usd", names)
        grid = willingness_grid(part.train.matrix("cost_usd", names))
        routed = outcome_of(sweep(estimates, grid, 0.0), cost, quality)
        drawn = drawn_measures(
            {"router": routed},
            oracle_of(grid, cost, quality),
            Routed(cost.T, quality.T),
            draws=DRAWS,
        )
        predicted = np.column_stack([p.predict(test[rows])[0] for p in predictors])
        sources = kept.queries["source"].to_numpy()
        return {
            "draws": {
                name: drawn["router"][:, i].round(6).tolist() for i, name in enumerate(MEASURES)
            },
            "auc": mean_auc(predicted, quality),
            "separation": domain_separation(train.embeddings, domains),
            "sources": {
                source: source_measures(routed, predicted, cost, quality, grid, sources == source)
                for source in np.unique(sources)
            },
        }


def source_measures(
    routed: Routed,
    predicted: np.ndarray,
    cost: np.ndarray,
    quality: np.ndarray,
    grid: np.ndarray,
    rows: np.ndarray,
) -> dict[str, float]:
    """AIQ, gap closed and AUC on the test queries of one source."""
    part = Routed(routed.cost[:, rows], routed.quality[:, rows])
    oracle = oracle_of(grid, cost[rows], quality[rows])
    drawn = drawn_measures({"router": part}, oracle, Routed(cost[rows].T, quality[rows].T), draws=0)
    return {
        "queries": int(rows.sum()),
        "auc": mean_auc(predicted[rows], quality[rows]),
        **dict(zip(MEASURES, drawn["router"][0].tolist(), strict=True)),
    }


def unseen_measures(train: np.ndarray, seen: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    """How well the unseen-domain score tells queries of a source left out from unseen queries of
    sources that were there, and what share of each is over the threshold."""
    score = UnseenScore().fit(train)
    near, far = score.score(seen), score.score(unseen)
    labels = np.repeat([0, 1], [len(near), len(far)])
    return {
        "unseen_auroc": float(roc_auc_score(labels, np.append(near, far))),
        "seen_flagged": float(np.mean(near > 1)),
        "unseen_flagged": float(np.mean(far > 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--joined", action="store_true")
    parser.add_argument("--leave-out", action="append", default=[])
    parser.add_argument("--variant", action="append", default=[])
    parser.add_argument("--family", action="append", default=[], choices=FAMILIES)
    parser.add_argument("--seed", type=int, action="append", default=[])
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--home", type=Path, default=Path.home() / ".mixllm" / "benchmarks")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        print(table(asked.out))
        return
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    done, families = read_done(asked.out), asked.family or list(DEFAULT_FAMILIES)
    for name, parts in setups(asked).items():
        bench: Bench | None = None
        for seed in asked.seed or (0, 1, 2):
            for variant in asked.variant or VARIANTS:
                key = {
                    "setup": name,
                    "settings": asked.settings,
                    "families": families,
                    "variant": variant,
                    "seed": seed,
                }
                if json.dumps(key, sort_keys=True) in done:
                    continue
                bench = bench or Bench(parts, asked.home / name, asked.settings, families)
                record = key | bench.run(variant, seed)
                with asked.out.open("a") as handle:
                    handle.write(json.dumps(record) + "\n")
                for found in record["sets"]:
                    aiq, gap = (found["draws"][m][0] for m in ("aiq", "gap_closed"))
                    print(
                        f"{name} {variant} seed {seed} {found['set']}: AIQ {aiq:.4f}, gap {gap:.3f}, "
                        f"AUC {found['auc']:.4f}, {record.get('seconds', 0):.0f} s",
                        flush=True,
                    )


def setups(asked: argparse.Namespace) -> dict[str, list[Parts]]:
    """Name → the sets that one encoder is tuned on."""
    read = {path.name: read_evaluation_set(path) for path in asked.data}
    if asked.leave_out:
        (whole,) = read.values()
        train, test = whole.split()
        return {
            f"{whole.name} without {source}": [
                Parts(
                    train.where((train.queries["source"] != source).to_numpy()),
                    test.where((test.queries["source"] == source).to_numpy()),
                    test.where((test.queries["source"] != source).to_numpy()),
                )
            ]
            for source in asked.leave_out
        }
    found = {name: [Parts(*whole.split())] for name, whole in read.items()}
    if asked.joined:
        return {"joined": [parts[0] for parts in found.values()]}
    return found


def read_done(path: Path) -> set[str]:
    lines = path.read_text().splitlines() if path.exists() else []
    keys = ("setup", "settings", "families", "variant", "seed")
    return {json.dumps({k: row[k] for k in keys}, sort_keys=True) for row in map(json.loads, lines)}


HEADS: Final = (
    "encoder", "seeds", "AIQ", "over frozen", "gap closed", "cost at 97.25 %", "quality at 24.18 %",
    "AUC", "within, between domains", "s, MB",
)  # fmt: skip


def table(path: Path) -> str:
    """The results as Markdown: a table a set, seeds averaged draw by draw, so that the interval is
    that of the mean over seeds and a difference from ``frozen`` is paired."""
    groups: dict[tuple[str, str, str], dict[str, list[dict[str, Any]]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        for found in row["sets"]:
            told = {**{k: v for k, v in row.items() if k != "sets"}, **found}
            variants = groups.setdefault(
                (row["setup"], found["set"], ", ".join(row["families"])), {}
            )
            variants.setdefault(row["variant"], []).append(told)
    lines = []
    for (setup, name, families), variants in groups.items():
        lines += [
            f"**{name}**"
            + (f", encoder of {setup}" if setup != name else "")
            + f"; predictors: {families}",
            "",
        ]
        rows = []
        frozen = mean_draws(variants["frozen"], "aiq")
        for variant, runs in variants.items():
            aiq = mean_draws(runs, "aiq")
            over = "" if variant == "frozen" else shown(aiq - frozen)
            aucs = [run["auc"] for run in runs]
            apart = np.mean([list(run["separation"].values()) for run in runs], axis=0)
            cells = [
                variant,
                str(len(runs)),
                shown(aiq),
                over,
                shown(mean_draws(runs, "gap_closed"), True),
                shown(mean_draws(runs, "cost_at_97.25%_quality"), True),
                shown(mean_draws(runs, "quality_at_24.18%_cost"), True),
                f"{np.mean(aucs):.4f} ({min(aucs):.4f} to {max(aucs):.4f})",
                f"{apart[0]:.2f}, {apart[1]:.2f}",
                f"{np.mean([run['seconds'] for run in runs]):.0f}, "
                f"{max(run['peak_megabytes'] for run in runs)}"
                if "seconds" in runs[0]
                else "",
            ]
            rows.append(cells)
        lines.append(markdown_table(HEADS, rows))
        unseen = [
            f"{variant}: {measure} {np.mean([run[measure] for run in runs]):.3f}"
            for variant, runs in variants.items()
            for measure in ("unseen_auroc", "seen_flagged", "unseen_flagged")
            if measure in runs[0]
        ]
        lines += ["", *([", ".join(unseen), ""] if unseen else [])]
    return "\n".join(lines)


def mean_draws(runs: list[dict[str, Any]], measure: str) -> np.ndarray:
    """(draws + 1,) the mean over seeds."""
    draws = [np.array(run["draws"][measure], dtype=float) for run in runs]
    return np.asarray(np.mean(draws, axis=0))


def shown(draws: np.ndarray, share: bool = False) -> str:
    return interval(draws).text(share=share)


if __name__ == "__main__":
    main()
