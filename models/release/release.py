"""A release: one immutable, consistent set of encoder, domains, predictors and decision defaults."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeGuard

import numpy as np

from models.decision.decide import Decision, DecisionContext, decide
from models.decision.estimates import Estimates
from models.decision.waiting import Delays
from models.decision.wishes import Wishes
from models.domains.domains import Domains
from models.encoder.inputs import QueryInputs
from models.encoder.onnx import OnnxEncoder
from models.errors import DecisionError, ReleaseError, UnknownCandidate, nearest
from models.files.release_files import read_arrays, read_json, reading
from models.learning.policy_state import PolicyState
from models.predictors.compiled import CompiledPredictors
from models.predictors.predictor import Predictor
from models.predictors.shrinkage import Shrinkage
from models.queries.form import query_forms
from models.release.manifest import Manifest, read_manifest
from models.release.probes import (
    MOST_PROBES,
    PROBE_AGREEMENT,
    PROBE_COSINE,
    PROBE_FILES,
    probe_choices,
)

MAX_QUERY_CHARACTERS: Final = 1_000_000


@dataclass(frozen=True)
class Timings:
    """Seconds that the parts of one routing took."""

    tokenize: float
    encode: float
    predict: float
    decide: float


@dataclass(frozen=True)
class Routing:
    """One query's decision, with what it was made from. inputs: of the one query. unseen_score: how
    far the query lies from all training queries; above 1 its domain is ``unknown``."""

    decision: Decision
    inputs: QueryInputs
    domain: str
    unseen_score: float
    timings: Timings

    @property
    def embedding(self) -> np.ndarray:
        """(d,) float32."""
        return np.asarray(self.inputs.embeddings[0])


@dataclass(frozen=True)
class RouteContext:
    """What a routing depends on besides the query.

    wishes: what the request asks of the decision.
    disabled: candidates that nobody gets.
    delays: what traffic adds to their times.
    incumbent: the LLM that answered last in the conversation.
    more_tokens: of the prompt, beyond the query.
    policy: what votes have taught beyond the release.
    number: from [0, 1), what exploration draws by.
    """

    wishes: Wishes = field(default_factory=Wishes)
    disabled: frozenset[str] = frozenset()
    delays: Delays | None = None
    incumbent: str | None = None
    more_tokens: float = 0.0
    policy: PolicyState | None = None
    number: float = 0.0


class Release:
    """A loaded release: routes queries. Build with ``build_release`` or ``Release.load``."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: OnnxEncoder,
        domains: Domains,
        compiled: CompiledPredictors,
    ) -> None:
        self.manifest = manifest
        self.digest = manifest.digest
        self.encoder = encoder
        self.domains = domains
        self.compiled = compiled
        self._known = frozenset(self.candidates)
        self._abilities = {c.name: frozenset(c.abilities) for c in manifest.catalog.llms}
        self._windows = np.array([c.context_window or np.inf for c in manifest.catalog.llms])

    @property
    def candidates(self) -> list[str]:
        return self.compiled.candidates

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> Release:
        """Load a release folder, refusing any file whose digest is not the manifest's.

        Raises ReleaseError, DigestMismatch, EncoderError.
        """
        manifest = read_manifest(folder)
        for part in manifest.pins:
            part.verify(folder)
        with reading(str(folder)):
            domains = Domains.load(folder / manifest.domains.folder)
            compiled = _compiled(folder, manifest)
            encoder = OnnxEncoder(folder / manifest.encoder.folder, threads)
            return cls(manifest, encoder, domains, compiled)

    def stored_probes(self, folder: Path) -> tuple[dict[str, list[str]], np.ndarray]:
        """The stored queries with the llms that they were routed to, and their embeddings (n, d).

        Raises ReleaseError, DigestMismatch.
        """
        self.manifest.probes.verify(folder)
        root = folder / self.manifest.probes.folder
        probes = read_json(root / PROBE_FILES[0])
        queries, llms = probes.get("queries"), probes.get("llms")
        embeddings = read_arrays(root / PROBE_FILES[1]).get("embeddings")
        if not (texts(queries) and texts(llms) and len(queries) == len(llms) <= MOST_PROBES):
            raise ReleaseError(f"{root}: not {MOST_PROBES} or fewer queries with an LLM each")
        if embeddings is None or embeddings.shape != (len(queries), self.encoder.dimension):
            raise ReleaseError(f"{root}: not an embedding for each query")
        if max(map(len, queries)) > MAX_QUERY_CHARACTERS:
            raise ReleaseError(f"{root}: a query is longer than {MAX_QUERY_CHARACTERS} characters")
        return {"queries": queries, "llms": llms}, embeddings

    def check_probes(self, folder: Path) -> None:
        """Raises ReleaseError when the stored probe queries embed or route otherwise here."""
        probes, stored = self.stored_probes(folder)
        with reading(f"{folder}: its probe queries"):
            self._check_probes(probes, stored)

    def _check_probes(self, probes: Mapping[str, list[str]], stored: np.ndarray) -> None:
        # One at a time: a padded batch would leave its memory with ONNX Runtime for good.
        embeddings = self.encoder.encode(probes["queries"], batch_size=1)
        cosine = float(np.min(np.sum(embeddings * stored, axis=1)))
        if not cosine >= PROBE_COSINE:
            raise ReleaseError(f"probe queries embed otherwise here: least cosine {cosine:.4f}")
        choices = probe_choices(
            self.compiled, self.manifest.defaults, self.encoder, probes["queries"], embeddings
        )
        agreement = float(np.mean([a == b for a, b in zip(choices, probes["llms"], strict=True)]))
        if agreement < PROBE_AGREEMENT:
            raise ReleaseError(f"probe queries route otherwise here: {agreement:.0%} agree")
        routable = [query for query in probes["queries"] if query.strip()]
        for query in routable[:1]:  # every part has a say in it, the domains too
            if not np.isfinite(self.route(query).unseen_score):
                raise ReleaseError("its domains give no finite score")

    @property
    def offered(self) -> frozenset[str]:
        """The abilities that any candidate has."""
        return frozenset().union(*self._abilities.values())

    def route(self, query: str, context: RouteContext = RouteContext()) -> Routing:
        """Decide for one query.

        Raises DecisionError (empty query, no candidate left), UnknownCandidate.
        """
        if not query.strip():
            raise DecisionError("the query is empty")
        if len(query) > MAX_QUERY_CHARACTERS:
            raise DecisionError(
                f"the query has {len(query)} characters, the limit is {MAX_QUERY_CHARACTERS}"
            )
        allowed = self.allowed(context.wishes, context.disabled)
        t0 = time.perf_counter()
        tokens = self.encoder.tokenize(query)
        t1 = time.perf_counter()
        embeddings = self.encoder.encode_tokens([tokens.ids])
        t2 = time.perf_counter()
        inputs = QueryInputs(
            embeddings, query_forms([query]), np.array([tokens.count + context.more_tokens])
        )
        estimates = self._estimate(inputs, context)
        domain, unseen = self.domains.place(embeddings[0])
        t3 = time.perf_counter()
        decision = self._decide(estimates, allowed, context)
        t4 = time.perf_counter()
        timings = Timings(t1 - t0, t2 - t1, t3 - t2, t4 - t3)
        return Routing(decision, inputs, domain, unseen, timings)

    def decide_read(self, inputs: QueryInputs, context: RouteContext) -> Decision:
        """Decide for one query that this release's encoder has read already. Raises as ``route``."""
        allowed = self.allowed(context.wishes, context.disabled)
        return self._decide(self._estimate(inputs, context), allowed, context)

    def _estimate(self, inputs: QueryInputs, context: RouteContext) -> Estimates:
        estimates, policy = self.compiled.estimate(inputs, context.delays), context.policy
        return estimates if policy is None else policy.refine(estimates, inputs.embeddings[0])

    def _decide(self, estimates: Estimates, allowed: np.ndarray, context: RouteContext) -> Decision:
        policy = context.policy
        decision_context = DecisionContext(
            context.wishes,
            self.fitting(estimates, allowed),
            context.incumbent,
            policy.network.votes if policy is not None else None,
            context.number,
        )
        return decide(self.candidates, estimates, self.manifest.defaults, decision_context)

    def allowed(self, wishes: Wishes, disabled: frozenset[str]) -> np.ndarray:
        """(L,) bool: enabled, among the wished-for, with the abilities. Raises DecisionError."""
        mask = np.array([name not in disabled for name in self.candidates])
        if wishes.candidates is not None:
            for name in wishes.candidates:
                if name not in self._known:
                    hint = nearest(name, self._known)
                    raise UnknownCandidate(f"no candidate {name!r}; {hint}", param="candidates")
            mask &= np.array([name in wishes.candidates for name in self.candidates])
            if not mask.any():
                raise DecisionError("every candidate asked for is disabled", param="candidates")
        for ability in wishes.abilities:
            mask &= np.array([ability in self._abilities[name] for name in self.candidates])
            if not mask.any():
                hint = "the catalog names no abilities"
                if self.offered:
                    hint = nearest(ability, self.offered)
                raise DecisionError(
                    f"no candidate is left that has the ability {ability!r}; {hint}",
                    param="abilities",
                )
        return mask

    def fitting(self, estimates: Estimates, allowed: np.ndarray) -> np.ndarray:
        """Those of the allowed whose context window holds the prompt and the predicted response."""
        needed = estimates.prompt_tokens[0] + estimates.response_tokens[0]
        fits: np.ndarray = allowed & (needed <= self._windows)
        if allowed.any() and not fits.any():
            raise DecisionError(
                f"about {needed[allowed].min():.0f} tokens are needed, and no candidate's context "
                f"window is larger than {self._windows[allowed].max():.0f}",
                param="query",
            )
        return fits


def compiled_release(folder: Path) -> CompiledPredictors:
    """A release folder's predictors alone, ready to score. Raises ReleaseError, DigestMismatch."""
    manifest = read_manifest(folder)
    for part in (*manifest.predictors.values(), manifest.shrinkage):
        part.verify(folder)
    with reading(str(folder)):
        return _compiled(folder, manifest)


def _compiled(folder: Path, manifest: Manifest) -> CompiledPredictors:
    predictors = []
    for name in manifest.catalog.names:
        predictor = Predictor.load(folder / manifest.predictors[name].folder)
        if (predictor.llm, predictor.encoder) != (name, manifest.encoder.encoder):
            raise ReleaseError(f"{folder}: the predictor of {name!r} is of another LLM or encoder")
        predictors.append(predictor)
    shrinkage = Shrinkage.load(folder / manifest.shrinkage.folder)
    return CompiledPredictors(predictors, manifest.catalog, shrinkage)


def texts(value: object) -> TypeGuard[list[str]]:
    """Whether it is a list of texts, at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
