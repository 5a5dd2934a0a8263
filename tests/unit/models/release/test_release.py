import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.catalog import Catalog
from models.data.evaluation_set import EvaluationSet
from models.decision.explain import explain
from models.decision.wishes import Wishes
from models.encoder.inputs import QueryInputs
from models.errors import DecisionError, DigestMismatch, ReleaseError, UnknownCandidate
from models.predictors.fitting import fit_predictors
from models.predictors.predictor import Predictor, shared_maps
from models.release.change import put_candidate, remove_candidate
from models.release.manifest import read_manifest, slug
from models.release.release import Release, RouteContext
from tampering import repin


@pytest.fixture(scope="module")
def release(release_folder: Path) -> Release:
    return Release.load(release_folder)


@pytest.fixture
def copy(release_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release_folder, tmp_path / "release"))


def test_it_routes_and_explains(release: Release) -> None:
    routing = release.route("What does this Python program print?\nprint(3 * 4)")
    told = explain(routing.decision)
    assert {row["llm"] for row in told["scores"]} == set(release.candidates)
    assert routing.decision.llm == told["scores"][0]["llm"]
    assert routing.domain in release.domains.names_
    np.testing.assert_allclose(np.linalg.norm(routing.embedding), 1.0, atol=1e-5)


def test_its_probes_are_its_own(release: Release, release_folder: Path) -> None:
    release.check_probes(release_folder)
    probes = json.loads((release_folder / "probes" / "probes.json").read_text())
    routed = [release.route(query).decision.llm for query in probes["queries"]]
    assert routed == probes["llms"]


def test_routing_beats_random_on_unseen_queries(
    release: Release, split: tuple[EvaluationSet, EvaluationSet]
) -> None:
    test = split[1]
    quality = test.matrix("quality", release.candidates)
    picks = [release.route(query).decision.choice for query in test.queries["query"]]
    chosen = quality[np.arange(len(quality)), picks].mean()
    assert chosen > quality.mean() + 0.15


@pytest.mark.parametrize("query", ["", "  \n\t"])
def test_an_empty_query_is_an_error(query: str, release: Release) -> None:
    with pytest.raises(DecisionError, match="empty"):
        release.route(query)


@pytest.mark.parametrize("query", ["x" * 200_000, "🙂🙂", "\x00", "a\ud800b"])
def test_odd_queries_are_routed(query: str, release: Release) -> None:
    assert release.route(query).decision.llm in release.candidates


def test_a_query_beyond_the_limit_is_an_error(release: Release) -> None:
    with pytest.raises(DecisionError, match="the limit is"):
        release.route("x" * 1_000_001)


def test_an_unknown_candidate_gets_the_nearest(release: Release) -> None:
    with pytest.raises(UnknownCandidate, match="did you mean 'sim-mini'"):
        release.route("hello", RouteContext(Wishes(candidates=("sim-mni",))))


@pytest.mark.parametrize("part", ["encoder/encoder.onnx", "predictors/sim-mini/predictor.json"])
def test_a_changed_file_is_refused(part: str, copy: Path) -> None:
    with (copy / part).open("ab") as handle:
        handle.write(b" ")
    with pytest.raises(DigestMismatch, match="the manifest says"):
        Release.load(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "domains" / "domains.json").unlink()
    with pytest.raises(DigestMismatch, match="no file"):
        Release.load(copy)


def test_predictors_of_another_encoder_are_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["predictors"]["sim-mini"]["encoder"] = "another"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match=r"another encoder .*mixllm-predictor-sim-mini"):
        Release.load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 7}, "format_version is 7"),
        ({"surprise": 1}, "surprise"),
        ({"predictors": {}}, "predictors"),
    ],
)
def test_a_bad_manifest_is_named(change: dict[str, object], message: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ReleaseError, match=message):
        read_manifest(copy)


def test_probes_that_embed_otherwise_are_refused(copy: Path) -> None:
    probes = json.loads((copy / "probes" / "probes.json").read_text())
    probes["queries"][0] = "something else"
    (copy / "probes" / "probes.json").write_text(json.dumps(probes))
    with pytest.raises(DigestMismatch, match=r"probes\.json"):
        Release.load(copy)
    repin(copy)
    with pytest.raises(ReleaseError, match="embed otherwise"):
        Release.load(copy).check_probes(copy)


def test_names_become_distinct_folders() -> None:
    assert slug("gpt-4o") == "gpt-4o"
    assert slug("a/b") != slug("a:b")
    assert "/" not in slug("../../etc/passwd")


def test_the_disabled_are_never_chosen(release: Release) -> None:
    dear = Wishes(willingness_to_pay=1000.0)
    first = release.route("Compute 12 * 13 + 4.", RouteContext(dear)).decision.llm
    second = release.route("Compute 12 * 13 + 4.", RouteContext(dear, frozenset({first}))).decision
    assert second.llm != first
    with pytest.raises(DecisionError, match="disabled"):
        release.route("hello", RouteContext(Wishes(candidates=(first,)), frozenset({first})))
    with pytest.raises(DecisionError, match="no candidate is left"):
        release.route("hello", RouteContext(disabled=frozenset(release.candidates)))


@pytest.fixture
def limited(copy: Path) -> Release:
    """The release with windows and abilities in its catalog."""
    manifest = json.loads((copy / "manifest.json").read_text())
    for entry in manifest["catalog"]["llms"]:
        entry["context_window"] = 100_000 if entry["name"] == "sim-large" else 2_000
        entry["abilities"] = ["tools"] if entry["name"] in ("sim-mini", "sim-large") else []
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return Release.load(copy)


def test_windows_and_abilities_come_before_the_score(limited: Release) -> None:
    assert limited.route("word " * 5_000).decision.llm == "sim-large"
    with pytest.raises(DecisionError, match=r"no candidate's context window is larger than 100000"):
        limited.route("a " * 499_000)
    able = limited.route("hello", RouteContext(Wishes(abilities=("tools",)))).decision
    assert able.llm in ("sim-mini", "sim-large")
    with pytest.raises(DecisionError, match="the ability 'images'; known: tools"):
        limited.route("hello", RouteContext(Wishes(abilities=("images",))))


def test_one_candidate_changes_and_nothing_else(
    release_folder: Path,
    split: tuple[EvaluationSet, EvaluationSet],
    train_inputs: QueryInputs,
    tmp_path: Path,
) -> None:
    old = read_manifest(release_folder)
    train = split[0]
    entry = train.catalog.get("sim-mini").model_copy(update={"name": "new/one"})
    few = np.arange(len(train.queries)) < 5
    some = train.where(few)
    outcomes = some.outcomes[some.outcomes["llm"] == "sim-mini"].assign(llm="new/one")
    data = EvaluationSet(some.queries, outcomes, Catalog(llms=(entry,)))
    shared = shared_maps(
        Predictor.load(release_folder / part.folder) for part in old.predictors.values()
    )
    (fitted,) = fit_predictors(data, train_inputs[few], old.encoder.encoder, maps=shared)
    predictor = fitted.predictor

    added = put_candidate(release_folder, tmp_path / "added", predictor, entry)
    digests = {llm: part.digest for llm, part in added.predictors.items()}
    assert digests.pop("new/one") == added.predictors["new/one"].digest
    assert digests == {llm: part.digest for llm, part in old.predictors.items()}
    assert added.encoder == old.encoder
    release = Release.load(tmp_path / "added")
    release.check_probes(tmp_path / "added")
    decision = release.route("Compute 1 + 1.").decision
    uncertainty = dict(zip(decision.candidates, decision.estimates.uncertainty, strict=True))
    assert uncertainty.pop("new/one") > max(uncertainty.values()) + 0.1

    removed = remove_candidate(tmp_path / "added", tmp_path / "removed", "new/one")
    assert removed.digest == old.digest
    Release.load(tmp_path / "removed").check_probes(tmp_path / "removed")


def test_a_predictor_of_another_encoder_is_not_put_in(
    release_folder: Path, predictors: list[Predictor], tmp_path: Path
) -> None:
    found = Predictor.load(release_folder / "predictors" / "sim-mini")
    stranger = dataclasses.replace(found, encoder="another")
    entry = read_manifest(release_folder).catalog.get("sim-mini")
    with pytest.raises(ReleaseError, match="another encoder"):
        put_candidate(release_folder, tmp_path / "new", stranger, entry)


def test_the_unknown_and_the_last_candidate_are_not_removed(
    release_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnknownCandidate, match="did you mean 'sim-mini'"):
        remove_candidate(release_folder, tmp_path / "a", "sim-mni")
    source = release_folder
    for number, name in enumerate(read_manifest(release_folder).catalog.names[1:]):
        remove_candidate(source, tmp_path / str(number), name)
        source = tmp_path / str(number)
    with pytest.raises(ReleaseError, match="the only candidate"):
        remove_candidate(source, tmp_path / "none", read_manifest(source).catalog.names[0])


def test_ten_of_seventeen_disabled_decide_right_at_once(
    release_folder: Path, predictors: list[Predictor], tmp_path: Path
) -> None:
    source = release_folder
    for number in range(11):
        base = predictors[number % len(predictors)]
        entry = read_manifest(source).catalog.get(base.llm)
        new = entry.model_copy(
            update={"name": f"more-{number}", "output_price": entry.output_price * 1.1}
        )
        put_candidate(source, tmp_path / str(number), dataclasses.replace(base, llm=new.name), new)
        source = tmp_path / str(number)
    release = Release.load(source)
    assert len(release.candidates) == 17
    gone = frozenset(release.candidates[::2] + release.candidates[1:3:2])
    assert len(gone) == 10
    for query in ("What is 2 + 2?", "Prove the theorem of Pythagoras.", "Name a river in France."):
        free = release.route(query).decision
        kept = release.route(query, RouteContext(disabled=gone)).decision
        best = max(
            (score, -i)
            for i, score in enumerate(free.terms.total)
            if release.candidates[i] not in gone
        )
        assert kept.llm == release.candidates[-best[1]]
        assert kept.llm not in gone


def test_an_embedding_that_is_not_a_number_is_an_error(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = np.full((1, 384), np.nan, dtype=np.float32)
    monkeypatch.setattr(release.encoder, "encode_tokens", lambda rows: broken)
    with pytest.raises(DecisionError, match="no candidate has a finite score"):
        release.route("hello")
