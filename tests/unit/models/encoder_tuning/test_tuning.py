"""The encoder's tuning, on a small BERT with random weights."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.data.evaluation_set import EvaluationSet
from models.encoder.onnx import CARD_FILE, REPORT_FILE, OnnxEncoder, encoder_digest
from models.encoder_tuning import tuning as tuning_module
from models.encoder_tuning.build import build_encoder, encoder_identity
from models.encoder_tuning.checkpoints import Checkpoint
from models.encoder_tuning.data import TuningData
from models.encoder_tuning.export import packaged_model_folder
from models.encoder_tuning.gate import choose_graph
from models.encoder_tuning.losses import inter_loss, intra_loss, routing_loss
from models.encoder_tuning.settings import TuningSettings
from models.encoder_tuning.tunable import TunableEncoder
from models.encoder_tuning.tuning import EncoderTuning
from models.encoder_tuning.validation import Validation
from models.errors import EncoderError


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = AutoTokenizer.from_pretrained(packaged_model_folder())
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    BertModel(config).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def data(split: tuple[EvaluationSet, EvaluationSet]) -> TuningData:
    domains = split[0].queries["source"].astype("category").cat.codes.to_numpy(copy=True)
    domains[::10] = -1
    return TuningData.of(split[0], domains)


@pytest.fixture
def settings(small_bert: Path) -> TuningSettings:
    return TuningSettings(
        base_model=str(small_bert),
        frozen_layers=1,
        max_tokens=32,
        learning_rate=3e-3,
        epochs=2,
        precision="no",
        domain_weight=0.5,
        may_stay=False,
    )


def weights(encoder: TunableEncoder) -> dict[str, torch.Tensor]:
    return dict(encoder.transformer.state_dict())


def test_domains_come_together_and_apart(
    data: TuningData, settings: TuningSettings, tmp_path: Path
) -> None:
    only_domains = settings.model_copy(update={"routing_weight": 0.0, "epochs": 4, "patience": 4})
    epochs = EncoderTuning(only_domains, tmp_path).fit(data).report_.epochs
    gap = [epoch["within"] - epoch["between"] for epoch in epochs]
    assert gap[-1] > 2 * gap[0]


def test_the_routing_term_learns_who_answers_well(
    data: TuningData, settings: TuningSettings, tmp_path: Path
) -> None:
    only_routing = settings.model_copy(update={"domain_weight": 0.0, "epochs": 4, "patience": 4})
    epochs = EncoderTuning(only_routing, tmp_path).fit(data).report_.epochs
    assert epochs[-1]["loss"] < 0.95 * epochs[1]["loss"]


class Killed(Exception):
    """Stands for the process's death."""


FILLED = 10  # batches of the fixed layers


@pytest.mark.parametrize("at", [-5, 1, 4, 9, 13])
def test_a_killed_run_ends_as_one_that_was_not(
    at: int,
    data: TuningData,
    settings: TuningSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning_module, "CHECKPOINT_STEPS", 3)
    whole = EncoderTuning(settings, tmp_path / "whole").fit(data)

    def kill(done: int, _: int) -> None:
        if done == FILLED + at:
            raise Killed

    with pytest.raises(Killed):
        EncoderTuning(settings, tmp_path / "killed").fit(data, kill)
    resumed = EncoderTuning(settings, tmp_path / "killed").fit(data)
    assert (resumed.report_.resumed_at is not None) == (at > 3)
    assert resumed.report_.best_epoch == whole.report_.best_epoch
    for name, value in weights(whole.encoder).items():
        torch.testing.assert_close(weights(resumed.encoder)[name], value, rtol=0, atol=0)


def test_only_the_upper_layers_learn_and_held_queries_are_not_read(
    data: TuningData, settings: TuningSettings, tmp_path: Path
) -> None:
    before = weights(TunableEncoder(settings.base_model, 1, 32))
    tuned = EncoderTuning(settings, tmp_path).fit(data)
    after = weights(tuned.encoder)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith(("encoder.layer.1.", "encoder.layer.2.")) for name in changed)
    learned = {i for epoch in range(2) for batch in tuned._batches(epoch) for i in batch}
    assert learned == set(np.flatnonzero(~tuned.held_))
    np.testing.assert_array_equal(tuned.held_, ~settings.split.learned(data.queries))


def test_the_whole_model_can_learn_too(
    data: TuningData, settings: TuningSettings, tmp_path: Path
) -> None:
    every = settings.model_copy(update={"frozen_layers": 0, "epochs": 1})
    tuned = EncoderTuning(every, tmp_path).fit(data)
    before = weights(TunableEncoder(settings.base_model, 0, 32))
    assert not torch.equal(
        before["embeddings.word_embeddings.weight"],
        weights(tuned.encoder)["embeddings.word_embeddings.weight"],
    )


def test_kept_hidden_states_change_nothing(
    data: TuningData, settings: TuningSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = EncoderTuning(settings, tmp_path / "kept").fit(data)
    monkeypatch.setattr(tuning_module, "KEPT_BYTES", 0)
    computed = EncoderTuning(settings, tmp_path / "computed").fit(data)
    assert not list((tmp_path / "computed").glob("hidden-*"))
    cosines = np.sum(kept.embed() * computed.embed(), axis=1)
    assert cosines.min() > 0.999  # they are kept as float16
    np.testing.assert_allclose(kept.embed(), kept.embed_new(data.queries), atol=2e-3)


@pytest.mark.parametrize(
    ("judged", "best", "epochs"),
    [([0.3, 0.2, 0.1], 0, 2), ([0.1, 0.3, 0.2, 0.1, 0.4], 1, 3), ([0.1, 0.2, 0.3], 2, 2)],
)
def test_the_best_epoch_is_kept_and_a_stalled_run_stops(
    judged: list[float],
    best: int,
    epochs: int,
    data: TuningData,
    settings: TuningSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = iter(judged)
    monkeypatch.setattr(tuning_module, "validate", lambda *_: Validation(next(left), 0.5, 0.2, 0.0))
    told = {"may_stay": True, "epochs": len(judged) - 1, "patience": 1}
    tuned = EncoderTuning(settings.model_copy(update=told), tmp_path).fit(data)
    assert tuned.report_.best_epoch == best
    assert len(tuned.report_.epochs) == epochs + 1
    before = weights(TunableEncoder(settings.base_model, 1, 32))
    same = [torch.equal(value, before[name]) for name, value in weights(tuned.encoder).items()]
    assert all(same) == (best == 0)


def test_what_cannot_be_tuned_is_a_clear_error(
    data: TuningData, settings: TuningSettings, tmp_path: Path
) -> None:
    few = TuningData(data.queries[:20], data.domains[:20], data.quality[:20], data.cost[:20])
    with pytest.raises(EncoderError, match="20 training queries are too few"):
        EncoderTuning(settings, tmp_path).fit(few)
    with pytest.raises(EncoderError, match="cannot be loaded"):
        TunableEncoder(tmp_path / "nothing", 1, 32)
    with pytest.raises(EncoderError, match="frozen_layers is 9, and there are 3 layers"):
        TunableEncoder(settings.base_model, 9, 32)


def test_losses() -> None:
    centroids = torch.eye(3)
    domains = torch.tensor([0, 1, -1])
    assert float(intra_loss(torch.eye(3), domains, centroids)) == pytest.approx(0.0)
    assert float(inter_loss(torch.eye(3), domains, centroids, margin=0.2)) == pytest.approx(0.0)
    together = torch.eye(3)[[0, 0, 0]]
    assert float(intra_loss(together, domains, centroids)) == pytest.approx(0.5)
    # Two domains on one spot: each is at cosine 1 or 0 to the two centroids of others.
    found = float(inter_loss(together, domains, centroids, margin=0.2))
    assert found == pytest.approx((0.0 + 0.0 + 0.8 + 0.0) / 4)
    unknown = torch.tensor([-1, -1, -1])
    assert float(intra_loss(together, unknown, centroids)) == 0.0
    assert float(inter_loss(together, unknown, centroids, margin=0.2)) == 0.0


def test_the_routing_loss_leaves_out_what_is_not_known() -> None:
    logits = torch.tensor([[0.0, 50.0], [0.0, -50.0]])
    quality = torch.tensor([[0.5, 1.0], [float("nan"), 0.0]])
    assert float(routing_loss(logits, quality)) == pytest.approx(np.log(2) / 3, abs=1e-5)
    assert float(routing_loss(logits, torch.full((2, 2), float("nan")))) == 0.0


def test_a_checkpoint_is_whole_and_of_one_run(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "a")
    assert checkpoint.load() is None
    checkpoint.save({"x": torch.tensor([1.0])}, {"step": 1})
    checkpoint.save({"x": torch.tensor([2.0])}, {"step": 2})
    found = checkpoint.load()
    assert found is not None
    assert found[0]["x"].tolist() == [2.0]
    assert found[1] == {"step": 2}
    assert Checkpoint(tmp_path, "b").load() is None
    # Killed between moving the old one away and the new one in.
    checkpoint.folder.rename(checkpoint.folder.with_suffix(".old"))
    assert checkpoint.load() is not None
    checkpoint.clear()
    assert checkpoint.load() is None


def test_a_built_encoder_serves_what_was_tuned(
    data: TuningData, settings: TuningSettings, tmp_path: Path
) -> None:
    folder = build_encoder(tmp_path / "encoder", data, settings, tune=True)
    encoder = OnnxEncoder(folder)
    assert encoder.split == settings.split
    assert encoder.max_tokens == 32
    report = (folder / REPORT_FILE).read_text()
    assert '"best_epoch"' in report
    card = (folder / CARD_FILE).read_text()
    assert "| float32 |" in card
    assert "Kept: epoch" in card
    assert not (tmp_path / "encoder.tuning").exists()
    again = build_encoder(tmp_path / "again", data, settings, tune=True)
    assert encoder_digest(again) == encoder_digest(folder), "the same inputs, the same encoder"


def test_the_identity_is_what_the_encoder_depends_on(
    data: TuningData, settings: TuningSettings
) -> None:
    same = encoder_identity(data, settings, tune=True)
    assert encoder_identity(data, settings.model_copy(), tune=True) == same
    assert encoder_identity(data, settings.model_copy(update={"seed": 1}), tune=True) != same
    assert encoder_identity(data, settings, tune=False) != same
    other = TuningData(data.queries, data.domains + 1, data.quality, data.cost)
    assert encoder_identity(other, settings, tune=True) != same


def test_a_graph_that_embeds_otherwise_is_refused(
    encoder_folder: Path, encoder: OnnxEncoder
) -> None:
    queries = [f"What is {i} + {i}?" for i in range(20)]

    def choose(embeddings: np.ndarray) -> Any:
        return np.zeros(len(embeddings))

    chosen, figures = choose_graph(
        {"float32": encoder_folder}, queries, encoder.encode(queries), choose
    )
    assert chosen == "float32"
    assert figures[0].cosine == pytest.approx(1.0, abs=1e-4)
    assert figures[0].agreement == 1.0
    assert float(figures[0].tags["float32.milliseconds"]) > 0
    with pytest.raises(EncoderError, match="no exported graph embeds as the model does"):
        choose_graph({"float32": encoder_folder}, queries, -encoder.encode(queries), choose)


SEVERAL = """
import sys
from pathlib import Path
import numpy as np
from models.encoder_tuning.tuning import EncoderTuning
from models.encoder_tuning.data import TuningData
from models.encoder_tuning.settings import TuningSettings

folder = Path(sys.argv[1])
arrays = np.load(folder / "data.npz")
data = TuningData(arrays["queries"].tolist(), arrays["domains"], arrays["quality"], arrays["cost"])
settings = TuningSettings.model_validate_json((folder / "settings.json").read_text())
EncoderTuning(settings, folder / "run").fit(data)
"""


def test_two_processes_learn_as_one_does(
    data: TuningData, settings: TuningSettings, tmp_path: Path
) -> None:
    queries = np.array(data.queries)
    np.savez(
        tmp_path / "data.npz",
        queries=queries,
        domains=data.domains,
        quality=data.quality,
        cost=data.cost,
    )
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    (tmp_path / "several.py").write_text(SEVERAL)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launch, "--num_machines", "1", str(tmp_path / "several.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    several = EncoderTuning(settings, tmp_path / "run").fit(data)
    assert several.report_.resumed_at is not None, "this process only reads what they learned"
    one = EncoderTuning(settings, tmp_path / "one").fit(data)
    assert [e["epoch"] for e in several.report_.epochs] == [e["epoch"] for e in one.report_.epochs]
    for mine, theirs in zip(one.report_.epochs, several.report_.epochs, strict=True):
        assert theirs["auc"] == pytest.approx(mine["auc"], abs=0.05)
        assert theirs["within"] == pytest.approx(mine["within"], abs=0.05)
