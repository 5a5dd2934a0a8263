"""The flow that mends what alerts say: each open one, by its mode; every step in the audit."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.change_candidate import register_change
from flows.learn import subject_of
from flows.scene import Scene
from flows.settle import Settled, settle
from flows.train_router import train_router
from flows.update_predictors import (
    Errors,
    Refit,
    read_graded,
    refit_table,
    shift_of,
    update_predictors,
)
from models.alerts import KINDS
from models.domains import Domains
from models.errors import MixLLMError
from models.manifest import Manifest, read_manifest
from models.predictors import Predictor
from models.refitting import recalibrated
from models.release import change_release
from models.signals import Signal
from models.tags import FORMS, KeyphraseTagger
from monitoring.alert_log import close_alert, list_alerts, note, read_audit
from monitoring.alert_text import alert_details, alert_text, alert_title
from monitoring.drift import read_window_row
from monitoring.graded import last_vote_before
from monitoring.learner import leave_out, rebuild, roll_back
from monitoring.locks import exclusive
from monitoring.notify import notify
from monitoring.policy_states import list_states
from monitoring.unseen_queries import unseen_queries

# Answers since the drift began that a predictor is moved by, and of these what judges it.
LEAST_ANSWERS: Final = 20
HELD_OUT: Final = 0.25
# Queries that make a domain, and graded answers from it that a predictor is refitted by.
LEAST_QUERIES: Final = 30
LEAST_IN_DOMAIN: Final = 30
# Phrases that name a new domain.
NAMED_BY: Final = 3
BETA_FACTOR: Final = 2.0
# A repair that fails is tried so often.
ATTEMPTS: Final = 3
TELLS: Final = frozenset({"tell people", "tell people what came of it"})


class NotYet(Exception):
    """A repair has too little to go by for now; it is tried again."""


@dataclass(frozen=True)
class Made:
    """What a repair came to. version, state: of the release it made, if one."""

    says: str
    version: str | None = None
    state: str | None = None


@dataclass(frozen=True)
class Case:
    """One open alert."""

    scene: Scene
    row: dict[str, Any]

    @property
    def number(self) -> int:
        return int(self.row["id"])

    @property
    def signal(self) -> Signal:
        return Signal(**self.row["signal"])

    @property
    def acts(self) -> bool:
        """Whether what passes the gate is promoted too, and what needs no release is done."""
        return bool(self.row["mode"] == "act")

    @property
    def data(self) -> str:
        """The configured evaluation set. Raises MixLLMError."""
        if self.scene.settings.data is None:
            raise MixLLMError("no evaluation set to train on: set MIXLLM_DATA")
        return str(self.scene.settings.data)

    def base(self) -> tuple[str, Path, Manifest]:
        """The champion: version, folder, manifest."""
        version = self.scene.registry.champion()
        folder = self.scene.registry.fetch(version)
        return version, folder, read_manifest(folder)

    def settle(
        self, version: str, moved: dict[str, float] | None = None, after_vote: int = 0
    ) -> str:
        """Judge what the repair made: champion, challenger or refused."""
        settled: Settled = settle(
            version,
            self.acts,
            self.scene.settings,
            self.scene.settings.data,
            moved,
            after_vote,
            self.number,
        )
        return settled.state

    def note(self, what: str, why: str, result: str, **evidence: Any) -> None:
        note(self.scene.engine, what, why, result, self.number, evidence)


@flow(name="repair", validate_parameters=False)
def repair() -> dict[str, Any]:
    """Mend every open alert, the oldest first. Returns {"closed": [[alert, outcome]], "waiting"}."""
    scene = Scene.open()
    closed: list[list[Any]] = []
    waiting: list[list[Any]] = []
    with exclusive(scene.engine, "repair"):
        for row in list_alerts(scene.engine, only_open=True):
            outcome = mend(Case(scene, row))
            (waiting if outcome is None else closed).append([row["id"], outcome])
    return {"closed": closed, "waiting": waiting}


def mend(case: Case) -> str | None:
    """One alert's repair; returns what it came to, None where it is to be tried again."""
    log, row = get_run_logger(), case.row
    steps = read_audit(case.scene.engine, case.number)
    if not any(step["what"] in TELLS for step in steps):  # whoever raised it died before it told
        tell(case, "tell people", "", {})
    if row["mode"] == "observe":
        return close(case, "observed")
    if row["release_digest"] != case.base()[2].digest:
        return close(case, f"release {row['release_version']} is not champion: nothing to mend")
    name = KINDS[row["name"]].repair
    try:
        made = REPAIRS[name](case)
    except NotYet as error:
        log.info("alert %d: %s", case.number, error)
        return None
    except Exception as error:  # whatever went wrong is in the audit, and is tried again
        log.exception("alert %d: %s failed", case.number, name)
        failed = sum(step["what"] == f"{name} failed" for step in steps) + 1
        told = f"attempt {failed} of {ATTEMPTS}"
        case.note(f"{name} failed", f"{type(error).__name__}: {error}", told)
        if failed < ATTEMPTS:
            return None
        return close(case, f"{name} failed {ATTEMPTS} times: {error}")
    case.note(name, alert_title(case.signal), made.says, version=made.version, state=made.state)
    return close(case, made.says)


def close(case: Case, outcome: str) -> str:
    """Close the alert and tell people what came of it."""
    close_alert(case.scene.engine, case.number, outcome)
    if case.row["mode"] != "observe":
        tell(case, "tell people what came of it", outcome, {"outcome": outcome})
    get_run_logger().info("alert %d: %s", case.number, outcome)
    return outcome


def tell(case: Case, what: str, outcome: str, more: dict[str, Any]) -> None:
    scene, signal = case.scene, case.signal
    version = case.row["release_version"]
    details = alert_details(case.number, signal, version, scene.rules, "mixllm drift list") | more
    text = f"{outcome}\n{alert_text(details)}".strip()
    told = notify(scene.settings, alert_title(signal), text, details)
    case.note(what, outcome or alert_title(signal), "; ".join(told) or "no channel is configured")


# --- the repairs ---------------------------------------------------------------------------------


def refit(case: Case) -> Made:
    """Move the one predictor to where its candidate's answers lie since the drift began."""
    name = str(case.row["subject"])
    with exclusive(case.scene.engine, f"predictor {name}"):
        version, folder, manifest = case.base()
        if name not in manifest.predictors:
            return Made(f"{name} is no candidate of release {version} any more")
        after = last_vote_before(case.scene.engine, case.row["since_position"])
        moved_one = recalibrate(case, name, folder, manifest, after)
        if isinstance(moved_one, NotYet):
            raise moved_one
        found, report = moved_one
        if not found.passes:
            return Made(f"{name}: moved, its predictor errs no less; nothing was made")
        new = register_refit(case, folder, version, found, report)
    shift = case.signal.now - (case.signal.reference or 0.0)
    moved = {name: shift} if "quality" in case.signal.what else {}
    state = case.settle(new, moved, after)
    return Made(f"release {new}, {state}: {name} refitted on {found.rows} answers", new, state)


@task(name="recalibrate", task_run_name="recalibrate {name}", cache_policy=NO_CACHE)
def recalibrate(
    case: Case, name: str, folder: Path, manifest: Manifest, after: int
) -> tuple[Refit, str] | NotYet:
    """The predictor moved by the graded answers after a vote.

    NotYet is returned, not raised: Prefect logs what a task raises as a failure, with its traceback.
    """
    answers, positions = read_graded.fn(folder, case.scene.settings)
    mine = np.array([llm == name for llm in answers.llms], dtype=bool) & (positions > after)
    if mine.sum() < LEAST_ANSWERS:
        return NotYet(
            f"{name} has {mine.sum()} graded answers since it began, {LEAST_ANSWERS} are needed"
        )
    since = answers.where(mine)
    cut = round((1 - HELD_OUT) * len(since))
    early = np.arange(len(since)) < cut
    old = Predictor.load(folder / manifest.predictors[name].folder)
    new = recalibrated(old, since.where(early), float(positions[mine].max()))
    late = since.where(~early)
    errors = Errors.of(old, new, late.inputs, late.quality)
    found = Refit(new, cut, errors, Errors(0.0, 0.0, 0.0), shift_of(old, late))
    return found, refit_table([found])


def register_refit(case: Case, folder: Path, base: str, found: Refit, report: str) -> str:
    case.note("refit", f"{found.rows} graded answers since it began", report)
    name = found.predictor.llm
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary) / "release"
        entry = read_manifest(folder).catalog.get(name)
        change_release(folder, changed, put=(found.predictor, entry))
        change = f"alert {case.number}: recalibrate {name}"
        version: str = register_change(changed, base, change, found.predictor, case.scene.settings)
    return version


def recluster(case: Case) -> Made:
    """Make a domain of the queries of no known one, then refit whoever answered enough of them."""
    version, folder, manifest = case.base()
    queries = unseen_queries(case.scene.engine, manifest.digest, case.row["since_position"])
    if len(queries.embeddings) < LEAST_QUERIES:
        raise NotYet(
            f"{len(queries.embeddings)} queries of no known domain, {LEAST_QUERIES} needed"
        )
    name = name_of(queries.texts, queries.others)
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary) / "release"
        domains = Domains.load(folder / manifest.domains.folder)
        change_release(folder, changed, domains=domains.extended(queries.embeddings, name))
        change = f"alert {case.number}: domain {name!r} of {len(queries.embeddings)} queries"
        new: str = register_change(changed, version, change, None, case.scene.settings)
    case.note("recluster", change, f"release {new}")
    says, state = f"domain {name!r} of {len(queries.embeddings)} queries", None
    if case.scene.settings.data is not None:
        refits = update_predictors(case.data, new, LEAST_IN_DOMAIN)
        if refits["version"] is not None:
            new, state = refits["version"], refits["state"]
            says += f", refitted {', '.join(refits['refitted'])}"
    if state is None or (case.acts and state == "challenger"):
        state = case.settle(new)
    return Made(f"release {new}, {state}: {says}", new, state)


def name_of(texts: list[str], others: list[str]) -> str:
    """What the queries are about, where their texts are kept: the phrases that are most commoner among
    them than among others, as the domains of the training are named."""
    if not texts:
        return "new"
    tagger = KeyphraseTagger(most=1.0).fit([*texts, *others])

    def shares(queries: list[str]) -> Counter[str]:
        found: Counter[str] = Counter()
        for tags in tagger.tag(queries):
            found.update({tag: 1 / len(queries) for tag in {*tags} - {*FORMS}})
        return found

    mine = shares(texts)
    mine.subtract(shares(others) if others else {})
    return ", ".join(tag for tag, _ in mine.most_common(NAMED_BY)) or "new"


def raise_beta(case: Case) -> Made:
    """A release whose latency penalty weighs twice as much."""
    version, folder, manifest = case.base()
    beta = BETA_FACTOR * manifest.defaults.beta
    defaults = manifest.defaults.model_copy(update={"beta": beta})
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary) / "release"
        change_release(folder, changed, defaults=defaults)
        change = f"alert {case.number}: beta {manifest.defaults.beta:g} → {beta:g}"
        new: str = register_change(changed, version, change, None, case.scene.settings)
    state = case.settle(new)
    return Made(f"release {new}, {state}: beta {beta:g}", new, state)


def rollback_policy(case: Case) -> Made:
    """Go back to the newest good policy state from before the window."""
    engine, release = case.scene.engine, case.row["release_digest"]
    if "refused" in case.signal.what:
        return Made("the last good policy state serves already")
    begun = read_window_row(engine, case.row["window_id"])["started_at"]
    good = [
        row["version"]
        for row in list_states(engine, release)
        if row["refused"] is None and row["created_at"] < begun
    ]
    if not good:
        return Made("no policy state from before the window is left to go back to")
    target = good[0]
    if not case.acts:
        return Made(f"proposed: mixllm policy rollback {target}")
    made = roll_back(engine, target, f"alert {case.number}")
    return Made(f"policy state {made} is state {target} again")


def leave_out_voter(case: Case) -> Made:
    """The voter is held already; leave out what was learned of it before that, too."""
    voter = str(case.row["subject"])
    if not case.acts:
        return Made(
            f"{voter} is held; proposed, to unlearn what it taught before: "
            f"mixllm policy rebuild --without {voter}"
        )
    leave_out(case.scene.engine, voter, f"alert {case.number}")
    learned, _ = rebuild(case.scene.engine, subject_of(case.scene.settings))
    return Made(f"policy state {learned.version}, learned without {voter}")


def retrain(case: Case, encoder: str | None = None) -> Made:
    """Train on the configured evaluation set."""
    made = train_router(case.data, promote_release=case.acts, encoder=encoder)
    version, state = made["version"], made["state"]
    return Made(f"release {version}, {state}: trained anew", version, state)


def retune(case: Case) -> Made:
    """Train with the encoder fine-tuned anew."""
    return retrain(case, "fine-tune")


def only_tell(case: Case) -> Made:
    return Made("people were told; nothing is repaired by itself")


REPAIRS: Final[dict[str, Callable[[Case], Made]]] = {
    "refit": refit,
    "recluster": recluster,
    "raise-beta": raise_beta,
    "rollback-policy": rollback_policy,
    "leave-out-voter": leave_out_voter,
    "retrain": retrain,
    "retune": retune,
    "tell": only_tell,
}
