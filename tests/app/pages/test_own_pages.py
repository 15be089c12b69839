"""Forms that other origins' pages send."""

from starlette.testclient import TestClient


def test_forms_are_refused_from_elsewhere_without_keys(client: TestClient):
    """Also from another port of this machine, whose pages no key keeps away; programs do not say where from."""
    for origin, status in (("http://localhost:3000", 403), ("http://testserver", 404), (None, 404)):
        headers = {"origin": origin} if origin else {}
        answer = client.post("http://testserver/jobs/ftjob-1/cancel", headers=headers)
        assert answer.status_code == status, answer.text
