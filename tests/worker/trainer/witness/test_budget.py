"""When checks are due, on a clock that the test turns."""

from worker.trainer.witness.budget import EARLY_BYTES, EARLY_TENSORS, Budget, early_names


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(share: float, *, cost: float, steps: int = 1000, step_seconds: float = 1.0) -> tuple[list[int], Budget]:
    """Steps at which looks were made, each costing `cost` seconds, as did the first of all."""
    clock = Clock()
    budget = Budget(share, clock)
    clock.now += cost
    budget.record(cost)
    checked = []
    for step in range(1, steps + 1):
        clock.now += step_seconds
        if budget.due():
            clock.now += cost
            budget.record(cost)
            checked.append(step)
    return checked, budget


def test_all_looks_together_stay_under_the_share_from_the_start() -> None:
    """The first look is paid for before there is another, and the last one is always still within the share."""
    checked, budget = run(0.01, cost=0.5)
    assert checked[0] == 167  # the first, this one and the last: 1.5 seconds
    assert all(0.5 * (2 + at) <= 0.01 * step for at, step in enumerate(checked, start=1))
    assert 0.8 * 0.01 * 1000 < budget.spent + 0.5 <= 0.01 * 1000


def test_cheap_looks_are_made_often() -> None:
    """A look that costs less than the share of a step is made at every step, nearly from the first on."""
    checked, _ = run(0.01, cost=0.001)
    assert checked == list(range(1, 1001))


def test_without_a_share_there_are_only_those_that_have_to_be() -> None:
    """0.0 leaves the early looks at some tensors, and those at checkpoints and at the end."""
    assert run(0.0, cost=0.001)[0] == []


def test_an_early_look_is_small() -> None:
    """However many and large the tensors are; and all of them are looked at where that is little."""
    few = {"a": 10, "b": 20}
    assert early_names(few, 0) == early_names(few, 1) == ["a", "b"]
    many = {f"t{at}": 1000 for at in range(EARLY_TENSORS * 3)}
    looks = [early_names(many, turn) for turn in range(3)]
    assert [len(look) for look in looks] == [EARLY_TENSORS] * 3
    assert {name for look in looks for name in look} == set(many)
    large = {"huge": EARLY_BYTES * 4, "half": EARLY_BYTES // 2, "other": EARLY_BYTES // 2, "third": EARLY_BYTES // 2}
    assert early_names(large, 0) == ["half", "other"]
    assert early_names({"huge": EARLY_BYTES * 4}, 0) == ["huge"]


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
