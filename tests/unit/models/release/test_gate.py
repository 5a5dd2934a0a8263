from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from models.catalog import Candidate, Catalog, Upstream
from models.release.gate.checks import (
    AGREEMENT,
    FAILS,
    MEMORY,
    NOT_MEASURED,
    OFFPOLICY,
    PASSES,
    REFUSED,
    Check,
    first_release,
    not_measured,
)
from models.release.gate.operation import (
    callable_check,
    latency_check,
    offpolicy_check,
    ratio_check,
)
from models.release.gate.outcomes import (
    Slice,
    aged,
    agreement_check,
    evaluation_check,
    robustness_check,
    worth_check,
)
from models.release.gate.table import gate_table
from models.release.gate.verdict import JudgedData, Verdict, settled


@pytest.fixture
def known() -> Slice:
    rng = np.random.default_rng(0)
    quality = np.stack([rng.random(400) < 0.6, rng.random(400) < 0.9], axis=1).astype(float)
    return Slice(["cheap", "dear"], quality, np.tile([1e-5, 1e-4], (400, 1)))


def test_the_same_choices_pass(known: Slice) -> None:
    check = worth_check(known, ["dear"] * 400, ["dear"] * 400, 0.01)
    assert check.state == PASSES
    assert check.release == check.champion


def test_worse_choices_fail_and_better_ones_pass(known: Slice) -> None:
    assert worth_check(known, ["cheap"] * 400, ["dear"] * 400, 0.01).state == FAILS
    assert worth_check(known, ["dear"] * 400, ["cheap"] * 400, 0.01).state == PASSES


def test_where_the_champion_s_choice_has_got_worse_leaving_it_passes(known: Slice) -> None:
    now = aged(known, {"dear": -0.5})
    assert worth_check(now, ["cheap"] * 400, ["dear"] * 400, 0.01).state == PASSES


def test_choices_without_outcomes_measure_nothing_and_do_not_pass(known: Slice) -> None:
    check = worth_check(known, ["new"] * 400, ["dear"] * 400, 0.01)
    assert check.state == NOT_MEASURED
    assert "known for 0 test queries, 20 are needed" in check.reason
    assert not check.holds


def test_agreement_robustness_memory() -> None:
    assert agreement_check(AGREEMENT, list("aab"), list("aac")).state == PASSES
    assert agreement_check(AGREEMENT, list("abc"), list("xyc")).state == FAILS
    all_gone = agreement_check(AGREEMENT, list("abc"), list("xyz"), set("xyz"))
    assert (all_gone.state, all_gone.excuse) == (NOT_MEASURED, "every choice is meant to change")
    assert robustness_check(0.90, 0.92, {"case": 0.9}).state == PASSES
    assert robustness_check(0.80, 0.92, {"case": 0.8}).state == FAILS
    assert ratio_check(MEMORY, 5.0, 4.5, 1.25).state == PASSES
    assert ratio_check(MEMORY, 6.0, 4.5, 1.25).state == FAILS


def test_a_busy_machine_is_not_taken_for_a_slow_release(rng: np.random.Generator) -> None:
    champion = 0.005 * rng.lognormal(0, 0.5, 100)
    assert latency_check(champion * rng.lognormal(0.1, 0.5, 100), champion).state == PASSES
    slow = latency_check(2 * champion * rng.lognormal(0, 0.2, 100), champion)
    assert slow.state == FAILS
    assert "in 100 pairs; timed, so it varies from run to run" in slow.reason


@pytest.mark.parametrize(
    ("queries", "quality", "aiq", "reason"),
    [
        (1, None, 0.0, "known for 1 test queries, 20 are needed; every outcome has the quality"),
        (19, None, 0.4, "known for 19 test queries, 20 are needed"),
        (400, 0.0, 0.0, "every outcome has the quality 0; its AIQ is 0"),
        (400, 1.0, 0.9, "every outcome has the quality 1"),
        (400, None, 0.0, "its AIQ is 0"),
        (400, None, float("nan"), "its AIQ is nan"),
    ],
)
def test_an_evaluation_that_says_nothing_fails(
    known: Slice, queries: int, quality: float | None, aiq: float, reason: str
) -> None:
    values = known.quality[:queries] if quality is None else np.full((queries, 2), quality)
    if queries == 1:
        values = np.ones((1, 2))
    data = Slice(known.names, values, known.cost[:queries])
    check = evaluation_check(data, ["dear"] * queries, aiq)
    assert check.state == FAILS
    assert reason in check.reason


def test_an_evaluation_of_enough_queries_passes(known: Slice) -> None:
    assert evaluation_check(known, ["dear"] * 400, 0.5).state == PASSES
    assert evaluation_check(known, ["cheap"] * 400).state == PASSES


# --- who can be called ---------------------------------------------------------------------------


def catalog(*names: str, upstreams: Collection[str] = ()) -> Catalog:
    return Catalog(
        llms=tuple(
            Candidate(
                name=name,
                input_price=1,
                output_price=1,
                tokens_per_second=1,
                time_to_first_token=0,
                upstream=Upstream(base_url="http://localhost/v1") if name in upstreams else None,
            )
            for name in names
        )
    )


@pytest.mark.parametrize(
    ("release", "champion", "local", "disabled", "state", "reason"),
    [
        (catalog("a"), catalog("b", upstreams="b"), None, "", FAILS, "a have no upstream"),
        (catalog("a"), None, catalog("c", upstreams="c"), "", FAILS, "every chat would fail"),
        (catalog("a"), catalog("a"), catalog("a", upstreams="a"), "", PASSES, "1 of 1"),
        (catalog("a", "b", upstreams="ab"), catalog("a", upstreams="a"), None, "ab", FAILS,
         "every LLM of the release is disabled"),
        (catalog("a", "b", upstreams="a"), catalog("a", upstreams="a"), None, "a", FAILS,
         "a disabled"),
        (catalog("a", "b", upstreams="a"), catalog("b", upstreams="b"), None, "", PASSES,
         "1 of 2; without an upstream: b"),
        (catalog("a"), catalog("b"), None, "", PASSES, "only /v1/route is used"),
        (catalog("a"), catalog("b"), catalog("a"), "", PASSES, "only /v1/route is used"),
        (catalog("a"), None, None, "", PASSES, "only /v1/route is used"),
        (catalog("a"), None, None, "a", FAILS, "every LLM of the release is disabled"),
    ],
)  # fmt: skip
def test_a_release_must_have_an_llm_that_can_be_called_where_chats_are_served(
    release: Catalog,
    champion: Catalog | None,
    local: Catalog | None,
    disabled: str,
    state: str,
    reason: str,
) -> None:
    check = callable_check(release, champion, local, set(disabled))
    assert check.state == state
    assert reason in check.reason
    assert check.holds == (state == PASSES)


# --- the verdict ---------------------------------------------------------------------------------

GOOD = Check("worth", 1.0, 1.0, "", PASSES)
EXCUSED = offpolicy_check(None)
MISSING = not_measured("agreement", "no evaluation set")
BAD = Check(MEMORY, 1.0, 9.0, "", FAILS, "9.00 times")


def test_what_is_not_measured_does_not_pass() -> None:
    verdict = Verdict("2", "1", [GOOD, MISSING])
    assert verdict.word == REFUSED
    assert verdict.reason == "refused; necessary but not measured: agreement (no evaluation set)"


def test_what_may_be_missing_does_not_refuse_and_is_named() -> None:
    verdict = Verdict("2", "1", [GOOD, EXCUSED])
    assert verdict.passes
    assert verdict.reason == (
        "passes 1 of 2 figures; not measured: off-policy gain (too few votes to tell)"
    )
    assert verdict.figures == (
        "worth: 1 against 1, passes\noff-policy gain, not measured (the log of votes cannot tell)"
    )


def test_every_figure_of_the_incident_is_named_and_refuses() -> None:
    """The LLMs were others, without an upstream: four figures could not be measured."""
    checks = [
        callable_check(catalog("c", "d"), catalog("a", "b", upstreams="ab"), None, ()),
        GOOD,
        agreement_check("agreement on the champion's probes", "cd", "ab", {"a", "b"}),
        worth_check(Slice(["c", "d"], np.ones((40, 2)), np.ones((40, 2))), "c" * 40, "a" * 40, 1),
        agreement_check(AGREEMENT, "cd", "ab", {"a", "b"}),
        EXCUSED,
    ]
    verdict = Verdict("2", "1", checks)
    assert verdict.word == REFUSED
    assert verdict.reason.startswith(
        "refused; fails: LLMs that can be called (no LLM of the release"
    )
    assert "necessary but not measured: worth on the test queries" in verdict.reason


def test_a_first_release_goes_without_comparisons_and_says_so() -> None:
    verdict = Verdict("1", None, [GOOD, *first_release([GOOD])])
    assert verdict.passes
    assert f"{OFFPOLICY}, worth on the test queries" in verdict.reason
    assert "(no champion yet)" in verdict.reason
    assert "the first release" in gate_table(verdict)


def test_the_table_names_data_rule_and_what_is_necessary() -> None:
    data = JudgedData("simulated", "ab" * 32, "its test queries", 80, 80, 480)
    table = gate_table(Verdict("2", "1", [GOOD, BAD, EXCUSED], data, number=3, changed="data"))
    assert "Release 2, against 1, verdict 3: **refused**." in table
    assert "simulated (digest abababababab), its test queries: 80 of 80 queries, 480" in table
    assert "| memory, MiB | 1 | 9 |  | **fails** | yes | 9.00 times |" in table
    assert "| not measured | no: too few votes to tell |" in table
    assert "every necessary figure was measured" in table


# --- the history ---------------------------------------------------------------------------------

INPUTS = {"champion": "c", "data": "d", "votes": 7}


def row(verdict: Verdict) -> dict[str, Any]:
    return {
        "number": verdict.number,
        "verdict": verdict.word,
        "measured": verdict.measured,
        "failed": verdict.failed,
        "reason": verdict.reason,
        "inputs": verdict.inputs,
    }


def test_a_refusal_stays_until_somebody_says_what_changed() -> None:
    first = settled(Verdict("2", "1", [BAD], inputs=INPUTS), [])
    history = [row(first)]
    again = settled(Verdict("2", "1", [GOOD], inputs={**INPUTS, "votes": 8}), history)
    assert (again.number, again.measured, again.word) == (2, PASSES, REFUSED)
    assert "refused by verdict 1 on the same inputs" in again.reason
    assert "mixllm judge 2 --changed TEXT" in again.reason
    history.append(row(again))
    named = settled(Verdict("2", "1", [GOOD], inputs=INPUTS), history, "the machine was busy")
    assert (named.number, named.word) == (3, PASSES)
    assert named.changed == "the machine was busy; votes: 8 → 7"
    history.append(row(named))
    assert settled(Verdict("2", "1", [GOOD], inputs=INPUTS), history).passes


def test_other_data_makes_another_verdict_that_names_it() -> None:
    history = [row(settled(Verdict("2", "1", [BAD], inputs=INPUTS), []))]
    other = settled(Verdict("2", "1", [GOOD], inputs={**INPUTS, "data": "e"}), history)
    assert other.passes
    assert other.changed == "data: d → e"
    history.append(row(other))
    back = settled(Verdict("2", "1", [GOOD], inputs=INPUTS), history)
    assert back.word == REFUSED, "on the first data it was refused, and nobody said what changed"


def test_new_votes_are_news_to_a_refusal_that_rests_on_votes() -> None:
    worse = offpolicy_check(
        {"verdict": "worse", "gain": {"value": -0.1, "low": -0.2, "high": -0.05}, "votes": 200}
    )
    history = [row(settled(Verdict("2", "1", [worse], inputs=INPUTS), []))]
    assert settled(Verdict("2", "1", [GOOD], inputs=INPUTS), history).word == REFUSED
    assert settled(Verdict("2", "1", [GOOD], inputs={**INPUTS, "votes": 9}), history).passes
