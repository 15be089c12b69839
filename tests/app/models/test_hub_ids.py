"""Ids of models of a hub."""

from app.models.hub_ids import hub_model_id

COMMIT = "c0ffee" + "0" * 34


def test_a_projects_own_model_has_another_id():
    """One per project, beside the public one; never longer than the column."""
    public = hub_model_id("acme/tiny", COMMIT)
    assert public == f"acme/tiny@{COMMIT}"
    mine, other = (hub_model_id("acme/tiny", COMMIT, project=project) for project in ("mine", "other"))
    assert len({public, mine, other}) == 3 and mine.startswith(f"{public}:")
    assert len(hub_model_id("a" * 96 + "/" + "b" * 96, COMMIT, project="p" * 64)) <= 256
