"""The verdict on a run finds each way in which a bead can go wrong."""

import pytest
from gastown.loadtest.check import judge

IDS = ["a", "b"]
CLOSED = {"a": "closed", "b": "closed"}
ENDS = {"a": [1], "b": [2]}
TOLD = [("a", 1), ("b", 2)]


def test_a_sound_run_is_sound() -> None:
    verdict = judge(IDS, CLOSED, ENDS, TOLD)
    assert verdict.sound
    assert verdict.as_dict()["completed_once"] == 2


def test_a_completion_nobody_was_told_of_is_still_sound() -> None:
    assert judge(IDS, CLOSED, ENDS, TOLD[:1]).sound


@pytest.mark.parametrize(
    ("statuses", "ends", "told", "fault"),
    [
        ({"a": "closed"}, ENDS, TOLD, "missing"),
        ({"a": "closed", "b": "in_progress"}, {"a": [1]}, TOLD[:1], "unfinished"),
        (CLOSED, {"a": [1], "b": []}, TOLD[:1], "unfinished"),
        (CLOSED, {"a": [1], "b": [2, 3]}, TOLD, "doubled"),
        (CLOSED, ENDS, [*TOLD, ("b", 2)], "acknowledged_twice"),
        (CLOSED, ENDS, [("a", 1), ("b", 9)], "unacknowledged_token"),
    ],
)
def test_each_fault_is_named(
    statuses: dict[str, str], ends: dict[str, list[int]], told: list[tuple[str, int]], fault: str
) -> None:
    verdict = judge(IDS, statuses, ends, told)
    assert not verdict.sound
    assert verdict.as_dict()[fault] == 1


def test_a_ledger_that_does_not_verify_is_no_success() -> None:
    verdict = judge(IDS, CLOSED, ENDS, TOLD)
    verdict.problems = ["an event is missing"]
    assert not verdict.sound
