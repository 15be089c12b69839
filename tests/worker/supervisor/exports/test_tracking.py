"""Curves by step, as tracking servers want them."""

from worker.supervisor.exports.tracking import by_step, facts


def test_points_of_a_step_are_one_row():
    """In the order of steps, by split and name, without what is no number."""
    metrics = [
        {"step": 2, "split": "valid", "values": {"loss": 1.5, "text": "x"}},
        {"step": 1, "split": "train", "values": {"loss": 2, "bad": float("inf")}},
        {"step": 2, "split": "train", "values": {"loss": 1.0}},
    ]
    assert list(by_step(metrics)) == [(1, {"train/loss": 2}), (2, {"valid/loss": 1.5, "train/loss": 1.0})]


def test_what_is_not_there_is_not_said():
    """A job without a result has no model and no verdict."""
    assert facts({"job": "a", "model": None, "verdict": None}) == {"permafrost.job": "a"}
