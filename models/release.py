"""A release: one immutable, consistent set of encoder, domains, predictors and decision defaults."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeGuard

import numpy as np
from safetensors.numpy import save_file

from models import domains as domains_module
from models import encoder as encoder_module
from models import predictors as predictors_module
from models import shrinkage as shrinkage_module
from models.catalog import Candidate, Catalog
from models.compiled import CompiledPredictors
from models.decision import Decision, DecisionDefaults, Estimates, Wishes, decide, score
from models.domains import Domains
from models.encoder import OnnxEncoder, encoder_digest
from models.errors import DecisionError, ReleaseError, UnknownCandidate, nearest
from models.inputs import QueryInputs
from models.manifest import DataSource, Manifest, Pin, pin, read_manifest, slug
from models.policy import PolicyState
from models.predictors import Predictor
from models.query_form import query_forms
from models.release_files import read_arrays, read_json, reading
from models.shrinkage import Shrinkage
from models.waiting import Delays

PROBES: Final = 16
MOST_PROBES: Final = 256
PROBE_FILES: Final = ("probes.json", "probes.safetensors")
# A loaded release must embed its probes this alike, and choose alike on this share of them. Another
# kernel rounds otherwise, which int8 makes visible (0.998 seen); another encoder is far below.
PROBE_COSINE: Final = 0.99
PROBE_AGREEMENT: Final = 0.95
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
        choices = _choices(
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

    def route(
        self,
        query: str,
        wishes: Wishes | None = None,
        disabled: frozenset[str] = frozenset(),
        delays: Delays | None = None,
        incumbent: str | None = None,
        more_tokens: float = 0.0,
        policy: PolicyState | None = None,
        number: float = 0.0,
    ) -> Routing:
        """Decide for one query.

        disabled: candidates that nobody gets. delays: what traffic adds to their times. incumbent:
        who answered last in the conversation. more_tokens: of the prompt, beyond the query. policy:
        what votes have taught beyond the release. number: from [0, 1), what exploration draws by.

        Raises DecisionError (empty query, no candidate left), UnknownCandidate.
        """
        if not query.strip():
            raise DecisionError("the query is empty")
        if len(query) > MAX_QUERY_CHARACTERS:
            raise DecisionError(
                f"the query has {len(query)} characters, the limit is {MAX_QUERY_CHARACTERS}"
            )
        wishes = wishes or Wishes()
        allowed = self.allowed(wishes, disabled)
        t0 = time.perf_counter()
        tokens = self.encoder.tokenize(query)
        t1 = time.perf_counter()
        embeddings = self.encoder.encode_tokens([tokens.ids])
        t2 = time.perf_counter()
        inputs = QueryInputs(
            embeddings, query_forms([query]), np.array([tokens.count + more_tokens])
        )
        estimates = self._estimate(inputs, delays, policy)
        domain, unseen = self.domains.place(embeddings[0])
        t3 = time.perf_counter()
        decision = self._decide(estimates, wishes, allowed, incumbent, policy, number)
        t4 = time.perf_counter()
        timings = Timings(t1 - t0, t2 - t1, t3 - t2, t4 - t3)
        return Routing(decision, inputs, domain, unseen, timings)

    def decide_read(
        self,
        inputs: QueryInputs,
        wishes: Wishes,
        disabled: frozenset[str] = frozenset(),
        delays: Delays | None = None,
        incumbent: str | None = None,
    ) -> Decision:
        """Decide for one query that this release's encoder has read already. Raises as ``route``."""
        allowed = self.allowed(wishes, disabled)
        estimates = self._estimate(inputs, delays, None)
        return self._decide(estimates, wishes, allowed, incumbent, None, 0.0)

    def _estimate(
        self, inputs: QueryInputs, delays: Delays | None, policy: PolicyState | None
    ) -> Estimates:
        estimates = self.compiled.estimate(inputs, delays)
        return estimates if policy is None else policy.refine(estimates, inputs.embeddings[0])

    def _decide(
        self,
        estimates: Estimates,
        wishes: Wishes,
        allowed: np.ndarray,
        incumbent: str | None,
        policy: PolicyState | None,
        number: float,
    ) -> Decision:
        return decide(
            self.candidates,
            estimates,
            self.manifest.defaults,
            wishes,
            self.fitting(estimates, allowed),
            incumbent,
            policy.network.votes if policy is not None else None,
            number,
        )

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


def build_release(
    folder: Path,
    domains: Domains,
    predictors: Sequence[Predictor],
    catalog: Catalog,
    defaults: DecisionDefaults,
    shrinkage: Shrinkage,
    data: DataSource,
    probes: Sequence[str],
    notes: Sequence[str] = (),
    flagged: Mapping[str, str] | None = None,
) -> Manifest:
    """Write a release folder around an encoder already at ``folder / "encoder"``.

    catalog: any order; the release keeps the candidates that have a predictor.
    probes: queries whose embeddings and choices are stored, to check a loaded release by.
    flagged: candidate → what its predictor was found wanting in.
    """
    digest = encoder_digest(folder / "encoder")
    domains.save(folder / "domains")
    by_name = {p.llm: p for p in predictors}
    catalog = catalog.subset([name for name in catalog.names if name in by_name])
    ordered = [by_name[name] for name in catalog.names]
    pins = {p.llm: _save_predictor(folder, p) for p in ordered}
    shrinkage.save(folder / "shrinkage")
    compiled = CompiledPredictors(ordered, catalog, shrinkage)
    _save_probes(folder, compiled, defaults, probes)
    manifest = Manifest(
        encoder=pin("mixllm-encoder", folder, "encoder", digest, _encoder_files(folder)),
        domains=pin("mixllm-domains", folder, "domains", digest, domains_module.FILES),
        probes=pin("mixllm-router", folder, "probes", digest, PROBE_FILES),
        shrinkage=pin("mixllm-router", folder, "shrinkage", digest, shrinkage_module.FILES),
        predictors=pins,
        catalog=catalog,
        defaults=defaults,
        data=data,
        created=_now(),
        notes=tuple(notes),
        flagged=dict(flagged or {}),
    )
    manifest.write(folder)
    return manifest


def change_release(
    source: Path,
    folder: Path,
    put: tuple[Predictor, Candidate] | None = None,
    remove: str | None = None,
    flagged: str | None = None,
    domains: Domains | None = None,
    defaults: DecisionDefaults | None = None,
) -> Manifest:
    """Write a release that differs from ``source`` in one candidate, in its domains or in its decision
    defaults; every other part stays.

    put: a predictor fitted on the release's encoder, and its catalog entry; takes the place of the
    candidate of that name, or comes last. remove: a candidate's name.
    flagged: what the predictor put in was found wanting in.
    Raises ReleaseError, UnknownCandidate.
    """
    old = read_manifest(source)
    shutil.copytree(source, folder)
    entries = {entry.name: entry for entry in old.catalog.llms}
    pins = dict(old.predictors)
    changed = remove if put is None else put[1].name
    flags = {name: flag for name, flag in old.flagged.items() if name != changed}
    if put is not None:
        predictor, entry = put
        flags |= {entry.name: flagged} if flagged else {}
        entries[entry.name] = entry
        pins[entry.name] = _save_predictor(folder, predictor)
    if remove is not None:
        if remove not in entries:
            raise UnknownCandidate(f"no candidate {remove!r}; {nearest(remove, entries)}")
        if len(entries) == 1:
            raise ReleaseError(f"{remove!r} is the only candidate; a release needs one")
        del entries[remove]
        shutil.rmtree(folder / pins.pop(remove).folder)
    default = old.catalog.default if old.catalog.default in entries else None
    catalog = Catalog(llms=tuple(entries.values()), default=default)
    predictors = [Predictor.load(folder / pins[name].folder) for name in catalog.names]
    queries = read_json(folder / old.probes.folder / PROBE_FILES[0])["queries"]
    shrinkage = Shrinkage.load(folder / old.shrinkage.folder)
    compiled = CompiledPredictors(predictors, catalog, shrinkage)
    _save_probes(folder, compiled, defaults or old.defaults, queries)
    probes = pin(old.probes.name, folder, old.probes.folder, old.encoder.encoder, PROBE_FILES)
    changes: dict[str, object] = {}
    if domains is not None:
        domains.save(folder / "domains")
        digest = old.encoder.encoder
        changes["domains"] = pin(old.domains.name, folder, "domains", digest, domains_module.FILES)
    manifest = old.model_copy(
        update={
            **changes,
            "defaults": defaults or old.defaults,
            "catalog": catalog,
            "predictors": pins,
            "probes": probes,
            "created": _now(),
            "flagged": flags,
        }
    )
    manifest.write(folder)
    return manifest


def _encoder_files(root: Path) -> tuple[str, ...]:
    """What the encoder computes with, and what its build says of it."""
    told = (encoder_module.CARD_FILE, encoder_module.REPORT_FILE)
    return (*encoder_module.FILES, *(f for f in told if (root / "encoder" / f).is_file()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _save_predictor(root: Path, predictor: Predictor) -> Pin:
    folder = f"predictors/{slug(predictor.llm)}"
    predictor.save(root / folder)
    name = f"mixllm-predictor-{slug(predictor.llm)}"
    return pin(name, root, folder, predictor.encoder, predictors_module.FILES)


def _save_probes(
    root: Path, compiled: CompiledPredictors, defaults: DecisionDefaults, queries: Sequence[str]
) -> None:
    encoder, folder = OnnxEncoder(root / "encoder"), root / "probes"
    embeddings = encoder.encode(queries)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": embeddings}, folder / PROBE_FILES[1])
    llms = _choices(compiled, defaults, encoder, queries, embeddings)
    probes = {"queries": list(queries), "llms": llms}
    (folder / PROBE_FILES[0]).write_text(json.dumps(probes, ensure_ascii=True, indent=1) + "\n")


def _choices(
    compiled: CompiledPredictors,
    defaults: DecisionDefaults,
    encoder: OnnxEncoder,
    queries: Sequence[str],
    embeddings: np.ndarray,
) -> list[str]:
    """Whom the defaults choose for each query, in one batch."""
    tokens = np.array([encoder.tokenize(query).count for query in queries])
    estimates = compiled.estimate(QueryInputs(embeddings, query_forms(queries), tokens))
    picks = np.argmax(score(estimates, defaults).total, axis=1)
    return [compiled.candidates[i] for i in picks]
