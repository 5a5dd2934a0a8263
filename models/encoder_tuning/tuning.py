"""Fine-tuning of the encoder: domains pulled together and apart, and the routing-aware term.

After MixLLM (Wang et al. 2025, section 3.1), with two changes: only the upper layers learn, so that
two cores are enough, and a head that predicts every candidate's quality from the embedding adds its
own loss, so that the embedding says who will answer well.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from accelerate import Accelerator

from models.digest import digest_json
from models.encoder_tuning.checkpoints import Checkpoint
from models.encoder_tuning.data import TuningData
from models.encoder_tuning.export import resolved_model
from models.encoder_tuning.hidden_states import HiddenStates, states_identity
from models.encoder_tuning.losses import inter_loss, intra_loss, routing_loss
from models.encoder_tuning.settings import TuningSettings
from models.encoder_tuning.tunable import TunableEncoder
from models.encoder_tuning.validation import Validation, domain_separation, validate
from models.errors import EncoderError
from models.queries.form import query_forms

# Running centroids move this far towards each batch.
CENTROID_STEP: Final = 0.1
CLIP_NORM: Final = 1.0
# Queries of like length share a batch: sorted within this many batches.
BUCKET: Final = 16
# Hidden states are kept while they fit; beyond, the fixed layers run again for every batch.
KEPT_BYTES: Final = 4_000_000_000
CHECKPOINT_STEPS: Final = 50
# Predictors that judge an epoch are fitted on this many of the queries it learned from.
JUDGING_ROWS: Final = 1500
# Fewer held-out queries than this tell nothing.
LEAST_HELD: Final = 10


@dataclass
class TuningReport:
    """What a tuning did. epochs: one record an epoch, the untuned encoder's first (epoch 0).
    best_epoch: whose weights were kept. seconds, peak_megabytes: of this process."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0
    peak_megabytes: float = 0.0
    device: str = "cpu"
    resumed_at: int | None = None


class EncoderTuning:
    """One fine-tuning run, resumable from its folder; on one device, or on several by ``accelerate``
    (each process learns from its part of every batch).

    ``fit`` returns when the kept weights are in ``encoder``; killed and started again on the same
    folder, settings and data, it goes on from the last checkpoint to the same result.
    Learned: encoder (``TunableEncoder``), held_ (n,) bool, report_.
    """

    def __init__(self, settings: TuningSettings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder

    def fit(
        self, data: TuningData, progress: Callable[[int, int], None] | None = None
    ) -> EncoderTuning:
        """progress: called with (batches done, batches in all), those of the fixed layers first."""
        begun = time.perf_counter()
        self._progress = progress or (lambda done, total: None)
        self._start(data)
        while self._epoch < self.settings.epochs and not self._stalled():
            self._train_epoch()
            self._close_epoch()
        self.encoder.trained.load_state_dict(self._best)
        self.report_.seconds += time.perf_counter() - begun
        self.report_.peak_megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._progress(self._total, self._total)
        return self

    @property
    def _total(self) -> int:
        return self._filled + self.settings.epochs * self._steps_per_epoch

    def _start(self, data: TuningData) -> None:
        s = self.settings
        precision = s.precision
        if precision == "auto":
            precision = "bf16" if fast_bf16() else "no"
        self._accelerator = Accelerator(mixed_precision=precision)
        torch.manual_seed(s.seed)
        self.data = data
        self.held_ = ~s.split.learned(data.queries)
        if not LEAST_HELD <= self.held_.sum() < len(self.held_):
            raise EncoderError(
                f"{len(data.queries)} training queries are too few to tune the encoder: of them "
                f"{int(self.held_.sum())} are held out (held_share {s.held_share}), at least "
                f"{LEAST_HELD} are needed; give more, or use the frozen encoder"
            )
        self.encoder = TunableEncoder(resolved_model(s.base_model), s.frozen_layers, s.max_tokens)
        self.encoder.transformer.to(self._accelerator.device)
        self._tokens = [self.encoder.tokenize(query) for query in data.queries]
        self._forms = query_forms(data.queries)
        learned = np.random.default_rng([s.seed, 1]).permutation(np.flatnonzero(~self.held_))
        self._judging = np.sort(np.append(np.flatnonzero(self.held_), learned[:JUDGING_ROWS]))
        self._steps_per_epoch = -(-int((~self.held_).sum()) // s.batch_size)
        self._filled = 0
        self._kept = self._keep_hidden_states()
        self._build_learners()
        self._epoch, self._step, self._loss = 0, 0, 0.0
        self.report_ = TuningReport(device=str(self._accelerator.device))
        self._checkpoint = Checkpoint(
            self.folder, digest_json([s.model_dump(), data.digest, versions()])
        )
        if not self._resume():
            self._centroids = self._centroids_of(self.embed())
            self._best = _copy(self.encoder.trained)
            self._record({})

    def _build_learners(self) -> None:
        s = self.settings
        quality = self.data.quality[~self.held_]
        self._head = torch.nn.Linear(self.encoder.dimension, self.data.quality.shape[1])
        torch.nn.init.normal_(self._head.weight, std=0.01)
        known = np.isfinite(quality)
        # A candidate without a row to learn from starts at one half.
        mean = (np.where(known, quality, 0).sum(axis=0) + 0.5) / (known.sum(axis=0) + 1)
        mean = np.clip(mean, 0.02, 0.98)
        with torch.no_grad():
            self._head.bias.copy_(torch.tensor(np.log(mean / (1 - mean)), dtype=torch.float32))
        self._dropout = torch.nn.Dropout(s.dropout)
        self._head.to(self._accelerator.device)
        groups = [
            {"params": list(self.encoder.trained.parameters()), "lr": s.learning_rate},
            {"params": list(self._head.parameters()), "lr": s.head_learning_rate},
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=s.weight_decay)
        self._rates = [s.learning_rate, s.head_learning_rate]

    def _keep_hidden_states(self) -> HiddenStates | None:
        if self.settings.frozen_layers == 0:
            return None
        kept = HiddenStates(
            self.folder,
            states_identity(self.encoder.digest, self.settings.frozen_layers, self._tokens),
            [len(row) for row in self._tokens],
            self.encoder.dimension,
        )
        if kept.bytes > KEPT_BYTES:
            return None

        def lower(rows: np.ndarray) -> torch.Tensor:
            with torch.inference_mode(), self._accelerator.autocast():
                return self.encoder.lower([self._tokens[i] for i in rows])[0]

        batches = self._by_length(np.arange(len(self._tokens)), 32)
        self._filled = len(batches)
        with self._accelerator.main_process_first():  # the others read what it wrote
            return kept.fill(batches, lower, lambda done: self._progress(done, self._total))

    def _by_length(self, rows: np.ndarray, size: int) -> list[np.ndarray]:
        order = rows[np.argsort([len(self._tokens[i]) for i in rows], kind="stable")]
        return [order[i : i + size] for i in range(0, len(order), size)]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        """The epoch's batches: every tuning query once, like lengths together, by seed."""
        rng = np.random.default_rng([self.settings.seed, 2, epoch])
        order = rng.permutation(np.flatnonzero(~self.held_))
        size = self.settings.batch_size
        batches = [
            batch
            for start in range(0, len(order), size * BUCKET)
            for batch in self._by_length(order[start : start + size * BUCKET], size)
        ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _embeddings(self, rows: np.ndarray) -> torch.Tensor:
        if self._kept is None and self.settings.frozen_layers == 0:
            return self.encoder.whole([self._tokens[i] for i in rows])
        if self._kept is None:
            with torch.no_grad():
                hidden, mask = self.encoder.lower([self._tokens[i] for i in rows])
        else:
            hidden, mask = self._kept.batch(rows)
        device = self._accelerator.device
        return self.encoder.upper(hidden.to(device), mask.to(device))

    def embed(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(n, d) float32 embeddings of the tuning's queries by the encoder as it is now."""
        out = np.empty((len(self._tokens), self.encoder.dimension), dtype=np.float32)
        rows = np.arange(len(self._tokens)) if rows is None else rows
        with torch.inference_mode(), self._accelerator.autocast():
            for batch in self._by_length(rows, 64):
                out[batch] = self._embeddings(batch).float().cpu().numpy()
        return out[rows]

    def embed_new(self, queries: Sequence[str]) -> np.ndarray:
        """(n, d) float32 embeddings of queries that the tuning was not given."""
        with self._accelerator.autocast():
            return self.encoder.embed(queries)

    def _train_epoch(self) -> None:
        batches = self._batches(self._epoch)
        for number in range(self._step, len(batches)):
            self._learn(batches[number], self._epoch * self._steps_per_epoch + number)
            self._step = number + 1
            done = self._filled + self._epoch * self._steps_per_epoch + self._step
            self._progress(done, self._total)
            if self._step % CHECKPOINT_STEPS == 0:
                self._save_checkpoint()

    def _learn(self, rows: np.ndarray, step: int) -> None:
        s, device = self.settings, self._accelerator.device
        rows = self._share(rows)
        # Dropout by step, so that a resumed run drops what an unbroken one would have.
        torch.manual_seed(s.seed * 1_000_003 + step)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._schedule(step)
        domains = torch.tensor(self.data.domains[rows], dtype=torch.int64, device=device)
        quality = torch.tensor(self.data.quality[rows], dtype=torch.float32, device=device)
        with self._accelerator.autocast():
            embeddings = self._embeddings(rows)
            loss = embeddings.sum() * 0.0
            if s.domain_weight:
                intra = intra_loss(embeddings, domains, self._centroids)
                inter = inter_loss(embeddings, domains, self._centroids, s.margin)
                loss = loss + s.domain_weight * (intra + s.separation * inter)
            if s.routing_weight:
                scaled = self._dropout(embeddings) * self.encoder.dimension**0.5
                loss = loss + s.routing_weight * routing_loss(self._head(scaled), quality)
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        learned = [p for group in self._optimizer.param_groups for p in group["params"]]
        for parameter in learned:
            if parameter.grad is not None:
                parameter.grad = self._mean_of_processes(parameter.grad)
        torch.nn.utils.clip_grad_norm_(learned, CLIP_NORM)
        self._optimizer.step()
        self._move_centroids(embeddings.detach().float(), domains)
        now = float(loss.detach())
        self._loss = 0.98 * self._loss + 0.02 * now if self._step else now

    def _share(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of a batch; with fewer rows than processes some are taken twice."""
        index, count = self._accelerator.process_index, self._accelerator.num_processes
        return np.resize(rows, max(len(rows), count))[index::count]

    def _mean_of_processes(self, value: torch.Tensor) -> torch.Tensor:
        if self._accelerator.num_processes == 1:
            return value
        return self._accelerator.reduce(value, "mean")

    def _schedule(self, step: int) -> float:
        total = self.settings.epochs * self._steps_per_epoch
        warm = max(1, int(self.settings.warmup * total))
        return min((step + 1) / warm, (total - step) / max(total - warm, 1), 1.0)

    def _move_centroids(self, embeddings: torch.Tensor, domains: torch.Tensor) -> None:
        for domain in domains[domains >= 0].unique():
            mean = embeddings[domains == domain].mean(0)
            moved = (1 - CENTROID_STEP) * self._centroids[domain] + CENTROID_STEP * mean
            self._centroids[domain] = torch.nn.functional.normalize(moved, dim=0)
        self._centroids = self._mean_of_processes(self._centroids)

    def _centroids_of(self, embeddings: np.ndarray) -> torch.Tensor:
        domains = self.data.domains
        count = int(domains.max(initial=-1)) + 1
        means = np.zeros((count, embeddings.shape[1]), dtype=np.float32)
        for domain in np.unique(domains[(domains >= 0) & ~self.held_]):
            means[domain] = embeddings[(domains == domain) & ~self.held_].mean(axis=0)
        centroids = torch.nn.functional.normalize(torch.tensor(means), dim=1)
        return centroids.to(self._accelerator.device)

    def _close_epoch(self) -> None:
        self._epoch, self._step = self._epoch + 1, 0
        self._record({"loss": self._loss})
        if self.report_.best_epoch == self._epoch:
            self._best = _copy(self.encoder.trained)
        self._save_checkpoint()

    def _record(self, extra: dict[str, float]) -> None:
        """Measure the encoder as it is on the held-out queries."""
        rows, data = self._judging, self.data
        held, embeddings = self.held_[rows], self.embed(rows)
        found: Validation = validate(
            embeddings, self._forms[rows], data.quality[rows], data.cost[rows], held
        )
        apart = domain_separation(embeddings[held], data.domains[rows][held])
        self.report_.epochs.append({"epoch": self._epoch, **extra, **vars(found), **apart})
        explained = [record["deviation_r2"] for record in self.report_.epochs]
        if not self.settings.may_stay and self._epoch:
            explained[0] = -np.inf
        self.report_.best_epoch = int(np.argmax(explained))
        self._loss = 0.0

    def _stalled(self) -> bool:
        return self._step == 0 and self._epoch - self.report_.best_epoch > self.settings.patience

    def _save_checkpoint(self) -> None:
        if not self._accelerator.is_main_process:
            return
        tensors = {
            **_prefixed("model", _copy(self.encoder.trained)),
            **_prefixed("best", self._best),
            **_prefixed("head", _copy(self._head)),
            "centroids": self._centroids,
        }
        for number, state in self._optimizer.state_dict()["state"].items():
            tensors |= _prefixed(f"optimizer.{number}", state)
        values = {
            "epoch": self._epoch,
            "step": self._step,
            "loss": self._loss,
            "report": vars(self.report_),
        }
        self._checkpoint.save(tensors, values)

    def _resume(self) -> bool:
        found = self._checkpoint.load()
        if found is None:
            return False
        tensors, values = found
        self.encoder.trained.load_state_dict(_part("model", tensors))
        self._best = _part("best", tensors)
        self._head.load_state_dict(_part("head", tensors))
        self._centroids = tensors["centroids"].to(self._accelerator.device)
        state = self._optimizer.state_dict()
        numbers = {int(name.split(".")[1]) for name in tensors if name.startswith("optimizer.")}
        state["state"] = {n: _part(f"optimizer.{n}", tensors) for n in numbers}
        self._optimizer.load_state_dict(state)
        self._epoch, self._step, self._loss = values["epoch"], values["step"], values["loss"]
        self.report_ = TuningReport(**values["report"])
        self.report_.resumed_at = self._epoch * self._steps_per_epoch + self._step
        return True


def tune_on_every_gpu(settings: TuningSettings, folder: Path, data: TuningData) -> None:
    """Where there are several GPUs, run the tuning on all of them; a run of this process on the same
    folder then finds it done. Nothing where there is one device."""
    if torch.cuda.device_count() < 2 or torch.cuda.is_initialized():
        return
    from accelerate import notebook_launcher

    notebook_launcher(_tune, (settings, folder, data), num_processes=torch.cuda.device_count())


def _tune(settings: TuningSettings, folder: Path, data: TuningData) -> None:
    EncoderTuning(settings, folder).fit(data)


def fast_bf16() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32: a recent GPU or processor."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _part(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")
    }


def versions() -> dict[str, str]:
    """The libraries that a tuned encoder's weights depend on."""
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}
