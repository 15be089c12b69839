"""The audit log: a line for every change, in the change's own transaction, and none without one."""

from starlette.testclient import TestClient

from tests.app.audit.conftest import lines
from tests.app.conftest import AFFINE, rows, upload_to
from tests.app.guarded import Guarded


def test_who_did_what_to_which_object(client: TestClient, guarded: Guarded):
    """Each change leaves one line: operation, object (also one that was just made), key, address, request."""
    file = upload_to(client)(rows())
    writer = guarded.headers("mine", "writer") | {"x-request-id": "my-request-0001"}
    job = client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}, headers=writer).json()["id"]
    client.post(f"fine_tuning/jobs/{job}/pause")
    client.post(f"fine_tuning/jobs/{job}/resume")
    client.post(f"fine_tuning/jobs/{job}/cancel")
    hook = {"name": "a", "url": "https://example.org/", "event_types": ["fine_tuning.job.failed"]}
    endpoint = client.post("webhook_endpoints", json=hook).json()["id"]
    client.post(f"webhook_endpoints/{endpoint}/rotate_secret")
    client.delete(f"webhook_endpoints/{endpoint}")
    client.delete(f"files/{file}")
    found = lines(client)
    assert [(each["action"], each["object_id"]) for each in found] == [
        ("createFile", file),
        ("createFineTuningJob", job),
        ("pauseFineTuningJob", job),
        ("resumeFineTuningJob", job),
        ("cancelFineTuningJob", job),
        ("createWebhookEndpoint", endpoint),
        ("rotateWebhookEndpointSecret", endpoint),
        ("deleteWebhookEndpoint", endpoint),
        ("deleteFile", file),
    ]
    made = found[1]
    assert made["request_id"] == "my-request-0001" and made["object"] == "audit_log"
    key_id = guarded.keys["mine", "writer"][:11]
    assert made["actor"] == {
        "api_key_id": key_id,
        "name": "writer of mine",
        "role": "writer",
        "ip_address": "testclient",
    }
    assert lines(client, api_key_id=key_id) == [made]
    assert [each["action"] for each in lines(client, object_id=endpoint)] == [each["action"] for each in found[5:8]]
    assert lines(client, action="deleteFile") == found[-1:]
    assert lines(client, created_after=made["created_at"] + 3600) == []
    assert lines(client, created_before=made["created_at"] + 3600) == found


def test_the_log_has_pages(client: TestClient):
    """Keyset pages, newest first, to the end; an unknown cursor is a 400."""
    upload = upload_to(client)
    files = [upload(rows()) for _ in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = client.get("audit_logs", params={"limit": 2} | after).json()
        seen += [each["object_id"] for each in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert seen == files[::-1]
    assert client.get("audit_logs", params={"after": "audit-none"}).json()["error"]["code"] == "invalid_cursor"
