"""When checks are due, on a clock that the test turns."""

from worker.trainer.witness.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(share: float, *, cost: float, steps: int = 1000, step_seconds: float = 1.0) -> tuple[list[int], Budget]:
    """Steps at which checks were made, each costing `cost` seconds."""
    clock = Clock()
    budget = Budget(share, clock)
    budget.cost = cost
    checked = []
    for step in range(1, steps + 1):
        clock.now += step_seconds
        if budget.due(step):
            clock.now += cost
            budget.record(cost)
            checked.append(step)
    return checked, budget


def test_early_steps_are_always_checked() -> None:
    """A leak from the first step is dated exactly, even when a check costs more than a step."""
    checked, _ = run(0.01, cost=50.0)
    assert checked == [1, 2, 4, 8]


def test_all_checks_together_stay_under_the_share() -> None:
    """After the early ones are paid for, the total stays within the share of training time, and uses it."""
    checked, budget = run(0.01, cost=0.5)
    assert budget.spent <= 0.01 * 1000
    assert budget.spent > 0.8 * 0.01 * 1000
    assert checked[4] > 100  # four early checks cost two seconds, the fifth is paid for after 250


def test_cheap_checks_are_made_often() -> None:
    """A check that costs less than the share of a step is made at every step."""
    checked, _ = run(0.01, cost=0.001)
    assert checked == list(range(1, 1001))


def test_a_full_share_checks_every_step() -> None:
    """1.0 is for tests and audits that want exact dates at any price."""
    checked, _ = run(1.0, cost=100.0, steps=50)
    assert checked == list(range(1, 51))


def test_one_slow_check_is_forgotten() -> None:
    """A busy moment does not stop checks for the rest of the run."""
    budget = Budget(0.01, Clock())
    budget.record(10.0)
    for _ in range(50):
        budget.record(0.1)
    assert budget.cost < 0.2
