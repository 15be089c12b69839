"""A grid and a list as the requests of single jobs, and errors of these as errors of the sweep."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest, PolicyError
from app.jobs.requests.schemas import JobCreate
from app.sweeps.schemas import SweepCreate
from app.sweeps.variations import Variation, expand, located, request_of
from tests.app.conftest import AFFINE

JOB = {"model": AFFINE, "training_file": "file-1"}


def sweep(job: dict[str, Any] | None = None, **more: Any) -> SweepCreate:
    return SweepCreate.model_validate({"job": JOB | (job or {}), **more})


def test_a_grid_is_every_combination() -> None:
    """Policies change slowest, seeds fastest."""
    wanted = sweep(
        grid={
            "seed": [1, 2],
            "hyperparameters": {"n_epochs": [3, 4]},
            "freeze_policy": [{"freeze": ["weight"]}, {"train": ["**"]}],
        }
    )
    values = [variation.values for variation in expand(wanted)]
    assert len(values) == 8
    assert values[1] == {"freeze_policy": {"freeze": ["weight"]}, "hyperparameters": {"n_epochs": 3}, "seed": 2}
    assert [value["freeze_policy"] for value in values[:4]] == [{"freeze": ["weight"]}] * 4


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
)
def test_a_grids_jobs_are_as_many_as_its_combinations(seeds: list[int], epochs: list[int]) -> None:
    """And no two are the same."""
    found = expand(sweep(grid={"seed": seeds, "hyperparameters": {"n_epochs": epochs}}))
    assert len({str(variation.values) for variation in found}) == len(seeds) * len(epochs) == len(found)


def test_a_variation_replaces_what_it_names() -> None:
    """The rest of the job stays, and so does the job that others are made from."""
    job = sweep({"hyperparameters": {"n_epochs": 9, "batch_size": 4}}, grid={"seed": [1]}).job
    made = request_of(job, Variation({"hyperparameters": {"n_epochs": 1}}, {}), seed=5)
    assert made.hyperparameters is not None and job.hyperparameters is not None
    assert made.hyperparameters.model_dump(exclude_unset=True) == {"n_epochs": 1, "batch_size": 4}
    assert (made.seed, job.hyperparameters.n_epochs) == (5, 9)
    assert made.model == job.model


def test_hyperparameters_of_a_method_stay_in_the_method() -> None:
    """Where OpenAI's clients put them."""
    method = {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4}}}
    job = JobCreate.model_validate(JOB | {"method": method})
    made = request_of(job, Variation({"hyperparameters": {"n_epochs": 1}}, {}), seed=5)
    assert made.hyperparameters is None
    assert made.chosen().model_dump(exclude_unset=True) == {"batch_size": 4, "n_epochs": 1}


def test_a_field_is_found_where_it_was_given() -> None:
    """In the axis of the grid, in the entry of the list, or in the common job."""
    wanted = sweep(grid={"hyperparameters": {"optimizer": [{"name": "sgd"}], "n_epochs": [1, 2]}})
    second = expand(wanted)[1]
    assert second.path("hyperparameters.n_epochs") == "grid.hyperparameters.n_epochs[1]"
    assert second.path("hyperparameters.optimizer.lr") == "grid.hyperparameters.optimizer[0].lr"
    assert second.path("method.supervised.hyperparameters.n_epochs") == "grid.hyperparameters.n_epochs[1]"
    assert second.path("hyperparameters.n_epochs_more") == "job.hyperparameters.n_epochs_more"
    assert second.path("") == "job"
    [entry] = expand(sweep(variations=[{"freeze_policy": {"freeze": ["x"]}}]))
    assert entry.path("freeze_policy.freeze") == "variations[0].freeze_policy.freeze"


def test_errors_of_a_job_name_the_sweeps_field() -> None:
    """Whatever raises them; an error without a field keeps none."""
    variation = Variation({"freeze_policy": {}}, {"freeze_policy": "grid.freeze_policy[3]"})
    for param, path in (("freeze_policy.rules[0]", "grid.freeze_policy[3].rules[0]"), (None, None)):
        with pytest.raises(PolicyError) as refused, located(variation):
            raise PolicyError("no", param=param)
        assert refused.value.param == path
    job = sweep(grid={"seed": [1]}).job
    paths = {"hyperparameters.n_epochs": "grid.hyperparameters.n_epochs[0]"}
    with pytest.raises(InvalidRequest) as wrong:
        request_of(job, Variation({"hyperparameters": {"n_epochs": "many"}}, paths), seed=1)
    assert wrong.value.param == wrong.value.errors[0]["field"] == paths["hyperparameters.n_epochs"]
    assert wrong.value.message.startswith("grid.hyperparameters.n_epochs[0]: input should be")
