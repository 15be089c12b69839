"""What every page has in common."""

import pytest
from starlette.testclient import TestClient

from app.pages.render import POLICY


@pytest.mark.parametrize("path", ["/", "/docs", "/jobs/ftjob-none"])
def test_every_page_forbids_what_is_not_ours(client: TestClient, path: str) -> None:
    """No script, style, picture or frame of another host; no cache keeps a page, which may show a project's data."""
    headers = client.get(f"http://testserver{path}").headers
    assert headers["content-security-policy"] == POLICY
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
