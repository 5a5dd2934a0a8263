"""Repairs of the policy state: go back to a good one, leave a voter out."""

from __future__ import annotations

from flows.context import subject_of
from flows.repairs.case import Case, Made
from monitoring.drift.window_log import kept_window
from monitoring.learning.learner import leave_out, rebuild, roll_back
from monitoring.learning.policy_states import list_states


def rollback_policy(case: Case) -> Made:
    """Go back to the newest good policy state from before the window."""
    engine, release = case.scene.engine, case.alert.release_digest
    if "refused" in case.signal.what:
        return Made("the last good policy state is already serving")
    begun = kept_window(engine, case.alert.window_id).started_at
    good = [
        row["version"]
        for row in list_states(engine, release)
        if row["refused"] is None and row["created_at"] < begun
    ]
    if not good:
        return Made("no policy state from before the window is left")
    target = good[0]
    if not case.acts:
        return Made(f"proposed: mixllm policy rollback {target}")
    made = roll_back(engine, target, f"alert {case.number}")
    return Made(f"rolled back to policy state {target}, now serving as {made}")


def leave_out_voter(case: Case) -> Made:
    """The voter is already held; unlearn its earlier votes too."""
    voter = str(case.alert.subject)
    if not case.acts:
        return Made(
            f"{voter} is held; proposed, to unlearn what it taught before: "
            f"mixllm policy rebuild --without {voter}"
        )
    leave_out(case.scene.engine, voter, f"alert {case.number}")
    learned, _ = rebuild(case.scene.engine, subject_of(case.scene.settings))
    return Made(f"rebuilt without {voter} as policy state {learned.version}")
