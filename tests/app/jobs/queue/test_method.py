"""OpenAI's `method` object."""

from app.jobs.queue.method import method_of


def test_dpo_is_the_method_of_preferences_alone() -> None:
    """Only OpenAI's own hyperparameters are in it, and only those that the job has."""
    options = {"n_epochs": 2, "beta": 0.1, "weight_decay": 0.01}
    assert method_of("preference", options) == {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.1}}}
    assert method_of("causal-lm", {"n_epochs": "auto"}) == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": "auto"}},
    }
