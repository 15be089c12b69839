"""/v1/secrets over HTTP: values go in, and no answer, log or audit line has them."""

import logging

import pytest
from starlette.testclient import TestClient

CANARY = "hf_canary5f3a9e"
HUB = {"name": "hub", "kind": "hub", "value": CANARY}


def test_set_read_list_delete(api: TestClient):
    """Each answer describes the secret and has no value in it."""
    made = api.post("secrets", json=HUB)
    assert made.status_code == 200, made.text
    assert made.json() | {"id": "", "created_at": 0, "updated_at": 0} == {
        "id": "", "object": "secret", "created_at": 0, "updated_at": 0, "name": "hub", "kind": "hub", "scope": "",
    }  # fmt: skip
    other = {
        "name": "bucket",
        "kind": "s3",
        "scope": "data",
        "value": {"access_key_id": "a", "secret_access_key": CANARY},
    }
    assert api.post("secrets", json=other).status_code == 200
    assert api.get("secrets/hub").json() == made.json()
    listed = api.get("secrets", params={"limit": 1}).json()
    assert ([each["name"] for each in listed["data"]], listed["has_more"]) == (["bucket"], True)
    rest = api.get("secrets", params={"after": listed["last_id"]}).json()
    assert [each["name"] for each in rest["data"]] == ["hub"]
    assert api.delete("secrets/hub").json() == {"id": made.json()["id"], "object": "secret", "deleted": True}
    assert api.get("secrets/hub").status_code == 404
    for answer in (made, api.get("secrets"), api.get("secrets/bucket"), api.get("audit_logs")):
        assert CANARY not in answer.text


def test_changes_are_in_the_audit_log(api: TestClient):
    """By the secret's id, also where a value is replaced."""
    secret = api.post("secrets", json=HUB).json()["id"]
    api.post("secrets", json=HUB | {"value": "hf_new"})
    lines = api.get("audit_logs").json()["data"]
    assert [(line["action"], line["object_id"]) for line in lines] == [("setSecret", secret)] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": f"{CANARY} x"},
        {"value": {"token": CANARY, "more": "x"}},
        {"value": {"token": [CANARY]}},
        {"value": [CANARY]},
        {"kind": "s3"},
        {"kind": CANARY[3:], "value": "hf_x"},
        {"token": CANARY},
        {"name": "a b"},
    ],
)
def test_refusals_repeat_no_value(
    api: TestClient, wrong: dict[str, object], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    """A wrong field of any kind: 400 with its path."""
    caplog.set_level(logging.DEBUG)
    refused = api.post("secrets", json=HUB | wrong)
    assert refused.status_code == 400, refused.text
    said = refused.text + caplog.text + "".join(capfd.readouterr())
    assert CANARY not in said


def test_second_secret_of_a_scope_is_a_conflict(api: TestClient):
    """With the name of the first."""
    api.post("secrets", json=HUB)
    refused = api.post("secrets", json=HUB | {"name": "another"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "secret_exists")
