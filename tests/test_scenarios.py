"""The scenarios of the official SDK's suite: each of the 55 has a test here, or a reason why not.

The tests are those of ``tests/integration/test_scenarios_*.py``, which have the numbers in their names.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAST = 55

ELSEWHERE = {
    3: (
        "The same with a real account. Each of its parts is run offline: start and models (1, 2), a turn with usage (4, 5), "
        "streaming (11), interrupting and going on (17), every example script.",
        "tests/test_examples.py::test_example_shows_what_it_is_there_to_show",
    ),
    50: (
        "Notifications that are unknown or do not fit: the pinned server sends none.",
        "tests/wire/test_wire_reading.py::test_a_notification_never_raises",
    ),
    51: (
        "Events that come before their turn is known: the pinned server cannot be made to send them at will.",
        "tests/turns/test_turn.py::test_events_before_the_answer_are_kept_and_those_of_other_turns_are_not",
    ),
    52: (
        "Concurrent first use: there is none, because opening is a scope. A handshake that fails closes the client.",
        "tests/client/test_open.py::test_a_server_that_refuses_the_handshake",
    ),
    54: (
        "The router of goals is how the official SDK goes about 36 to 44; what can be seen of it is theirs.",
        "tests/integration/test_scenarios_goals.py::test_s40_a_steer_reaches_the_turn_that_the_goal_went_on_with",
    ),
}
"""Scenarios without a test of their number: why, and which tests cover them."""


def scenario_tests() -> dict[int, list[str]]:
    """Return the tests of each number."""
    found: dict[int, list[str]] = {}
    for path in (ROOT / "tests" / "integration").glob("test_scenarios_*.py"):
        for name, numbers in re.findall(
            r"^(?:async )?def (test_((?:s\d+_)+)\w+)\(", path.read_text(), re.MULTILINE
        ):
            for number in re.findall(r"\d+", numbers):
                found.setdefault(int(number), []).append(name)
    return found


def test_every_scenario_is_a_test_or_has_a_reason_and_none_has_both() -> None:
    assert sorted([*scenario_tests(), *ELSEWHERE]) == list(range(1, LAST + 1))


@pytest.mark.parametrize("number", ELSEWHERE)
def test_what_is_proved_elsewhere_is_there(number: int) -> None:
    path, _, name = ELSEWHERE[number][1].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()
