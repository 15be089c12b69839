"""Ids of models of a hub."""

from app.models.hub_ids import hub_model_id, store_model_id

COMMIT = "c0ffee" + "0" * 34


def test_a_projects_own_model_has_another_id():
    """One per project, beside the public one; never longer than the column."""
    public = hub_model_id("acme/tiny", COMMIT)
    assert public == f"acme/tiny@{COMMIT}"
    mine, other = (hub_model_id("acme/tiny", COMMIT, project=project) for project in ("mine", "other"))
    assert len({public, mine, other}) == 3 and mine.startswith(f"{public}:")
    assert len(hub_model_id("a" * 96 + "/" + "b" * 96, COMMIT, project="p" * 64)) <= 256


def test_a_model_of_a_store_is_known_by_its_digest():
    """A last slash makes no other model; the id fits into the column at the longest prefix."""
    digest = "ab" * 32
    assert store_model_id("s3://bucket/m/", digest, project="a") == store_model_id("s3://bucket/m", digest, project="a")
    assert store_model_id("s3://bucket/m", digest, project="b") != store_model_id("s3://bucket/m", digest, project="a")
    assert len(store_model_id("s3://" + "b" * 195, digest, project="p" * 64)) <= 256
