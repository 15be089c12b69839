"""Ids of models that jobs make."""

import pytest

from app.jobs.queue.tables import Job
from worker.supervisor.result_models import model_id


@pytest.mark.parametrize(
    ("model", "suffix", "expected"),
    [
        ("tiny", None, "ft:tiny:team::0123456789ab"),
        ("acme/tiny bert", "mine", "ft:acme-tiny-bert:team:mine:0123456789ab"),
        ("ft:tiny:team:mine:fedcba987654", None, "ft:tiny:team::0123456789ab"),
        ("x" * 200, None, f"ft:{'x' * 80}:team::0123456789ab"),
    ],
)
def test_id_names_the_first_base(model: str, suffix: str | None, expected: str) -> None:
    """Without a slash, short, and after the first base where a fine-tune was fine-tuned."""
    job = Job(id="ftjob-0123456789abcdef01234567", project="team", model=model, suffix=suffix)
    assert model_id(job) == expected
