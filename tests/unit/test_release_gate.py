import numpy as np
import pytest

from models.release_gate import (
    Check,
    Slice,
    Verdict,
    aged,
    agreement_check,
    gate_table,
    latency_check,
    ratio_check,
    robustness_check,
    worth_check,
)


@pytest.fixture
def known():
    rng = np.random.default_rng(0)
    quality = np.stack([rng.random(400) < 0.6, rng.random(400) < 0.9], axis=1).astype(float)
    return Slice(["cheap", "dear"], quality, np.tile([1e-5, 1e-4], (400, 1)))


def test_the_same_choices_pass(known):
    found = worth_check(known, ["dear"] * 400, ["dear"] * 400, 0.01)
    assert found.passes
    assert found.release == found.champion


def test_worse_choices_are_refused_and_better_ones_pass(known):
    assert worth_check(known, ["cheap"] * 400, ["dear"] * 400, 0.01).passes is False
    assert worth_check(known, ["dear"] * 400, ["cheap"] * 400, 0.01).passes is True


def test_where_the_champion_s_choice_has_got_worse_leaving_it_passes(known):
    now = aged(known, {"dear": -0.5})
    assert worth_check(now, ["cheap"] * 400, ["dear"] * 400, 0.01).passes is True


def test_choices_without_outcomes_judge_nothing(known):
    found = worth_check(known, ["new"] * 400, ["dear"] * 400, 0.01)
    assert found.passes is None
    assert found.says


def test_agreement_robustness_memory():
    assert agreement_check(list("aab"), list("aac"), "probes").passes
    assert agreement_check(list("abc"), list("xyc"), "probes").passes is False
    assert robustness_check(0.90, 0.92, {"case": 0.9}).passes
    assert robustness_check(0.80, 0.92, {"case": 0.8}).passes is False
    assert ratio_check("memory", 5.0, 4.5, 1.25, "MiB").passes
    assert ratio_check("memory", 6.0, 4.5, 1.25, "MiB").passes is False


def test_a_busy_machine_is_not_taken_for_a_slow_release(rng):
    champion = 0.005 * rng.lognormal(0, 0.5, 100)
    assert latency_check(champion * rng.lognormal(0.1, 0.5, 100), champion).passes
    assert latency_check(2 * champion * rng.lognormal(0, 0.2, 100), champion).passes is False


def test_one_refusal_refuses_and_what_cannot_be_had_is_said():
    good = Check("worth", 1.0, 1.0, "", True)
    unknown = Check("off-policy gain", None, None, "", None, "the log cannot tell")
    bad = Check("memory", 1.0, 9.0, "", False)
    passes, refused = Verdict("2", "1", [good, unknown]), Verdict("2", "1", [good, bad])
    assert passes.passes
    assert passes.why == "passes; not to be had: off-policy gain"
    assert refused.word == "refused"
    assert refused.why == "refused for memory"
    assert passes.figures == (
        "worth: 1 against 1, passes\noff-policy gain, not to be had (the log cannot tell)"
    )
    assert "| memory | 1 | 9 |" in gate_table(refused)
    assert refused.record()["checks"][1]["name"] == "memory"
