"""The moves between a job's states."""

from app.jobs.queue.states import MOVES, TERMINAL


def test_moves_reach_an_end_from_every_state():
    """Every state that is not terminal has a way to a terminal one, and terminal states have none."""
    for status in MOVES:
        seen, frontier = {status}, {status}
        while frontier:
            frontier = {target for source in frontier for target in MOVES[source]} - seen
            seen |= frontier
        assert (seen & TERMINAL) and (status not in TERMINAL or seen == {status})
