"""The number of lines dispatched per batch."""

from hypothesis import given
from hypothesis import strategies as st

from trio_codex._link.pace import LINES_AT_ONCE, MAX_LINES, Pace


def test_one_consumer_gets_as_many_lines_as_it_takes_before_it_yields():
    pace = Pace()
    for _ in range(10):
        pace.note(pace.lines, pace.lines)
        assert pace.lines == LINES_AT_ONCE


def test_with_many_consumers_the_batch_grows_until_the_busiest_has_enough():
    pace = Pace()
    for _ in range(20):
        pace.note(pace.lines, -(-pace.lines // 10))
    assert 9 * LINES_AT_ONCE <= pace.lines <= 10 * LINES_AT_ONCE


def test_the_batch_shrinks_if_a_consumer_has_too_much_but_not_at_the_end_of_a_chunk():
    pace = Pace()
    for _ in range(10):
        pace.note(pace.lines, 1)
    assert pace.lines == MAX_LINES
    pace.note(3, 1)
    assert pace.lines == MAX_LINES
    pace.note(3, LINES_AT_ONCE + 1)
    assert pace.lines == LINES_AT_ONCE
    pace.note(3, 1)
    assert pace.lines == LINES_AT_ONCE


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 5000)), max_size=30))
def test_the_batch_stays_within_its_bounds_and_grows_in_steps(notes):
    pace = Pace()
    for lines, share in notes:
        before = pace.lines
        pace.note(lines, share)
        assert LINES_AT_ONCE <= pace.lines <= min(2 * before, MAX_LINES)
        if share == 0:
            assert pace.lines == before
