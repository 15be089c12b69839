"""The guide as browsers get it: own scripts alone, nothing outside of its folder, search without a network."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from playwright.sync_api import Page, expect, sync_playwright
from starlette.testclient import TestClient

from app.guide.routes import content_policy, mount_guide, router
from tests.app.conftest import serve
from tests.app.pages.test_browser import launch
from tests.patience import PATIENCE
from tests.tools.guide.conftest import built  # noqa: F401 - a fixture


@pytest.fixture
def small(tmp_path: Path) -> TestClient:
    """A site of three files, and a secret beside it."""
    site = tmp_path / "built" / "site"
    (site / "first-job").mkdir(parents=True)
    (site / "index.html").write_text("<h1>Start</h1>")
    (site / "first-job" / "index.html").write_text("<h1>First</h1>")
    (site / "bundle.77dd0ce9.min.js").write_text("1")
    (tmp_path / "built" / "scripts.json").write_text(json.dumps(["sha256-AAAA"]))
    (tmp_path / "secret.txt").write_text("secret")
    application = FastAPI()
    application.include_router(router)
    mount_guide(application, tmp_path / "built")
    return TestClient(application)


def test_a_page_runs_its_own_scripts_alone(small: TestClient) -> None:
    """By the digests that the build wrote; and pages are asked for again, so that an upgrade shows at once."""
    answer = small.get("/guide/first-job/")
    assert (answer.status_code, answer.text) == (200, "<h1>First</h1>")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == content_policy(["sha256-AAAA"])
    assert answer.headers["cache-control"] == "no-cache"
    again = small.get("/guide/first-job/", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.headers["content-security-policy"]) == (304, content_policy(["sha256-AAAA"]))
    assert "unsafe-inline" not in content_policy(["sha256-AAAA"]).partition("style-src")[0]


def test_what_is_named_by_its_content_is_kept(small: TestClient) -> None:
    """Scripts and styles, whose names change with what is in them."""
    headers = small.get("/guide/bundle.77dd0ce9.min.js").headers
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    assert headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/guide", "/guide/first-job"])
def test_an_address_without_its_slash_leads_there(small: TestClient, path: str) -> None:
    """Links of a page are relative to its folder."""
    answer = small.get(path)
    assert (answer.status_code, answer.url.path) == (200, f"{path}/")


@pytest.mark.parametrize(
    "path", ["../secret.txt", "%2e%2e/secret.txt", "..%2f..%2fsecret.txt", "../scripts.json", "/etc/passwd", "none/"]
)
def test_nothing_outside_of_the_site_is_served(small: TestClient, path: str) -> None:
    assert small.get(f"/guide/{path}").status_code == 404


def test_where_nothing_is_built_it_says_how(tmp_path: Path) -> None:
    """With the names of the pages that a checkout has."""
    application = FastAPI()
    mount_guide(application, tmp_path / "none")
    answer = TestClient(application).get("/guide/first-job/")
    assert answer.status_code == 404
    assert "make guide" in answer.text and "docs/first-job.md" in answer.text


def test_pages_and_document_lead_to_it(client: TestClient) -> None:
    """The frame of every page, and the introduction of the API page."""
    assert 'href="/guide/"' in client.get("http://testserver/").text
    assert "(/guide/)" in client.get("http://testserver/openapi.json").json()["info"]["description"]
    assert client.get("http://testserver/guide", follow_redirects=False).headers["location"] == "guide/"


@pytest.fixture
def tab(built: Path) -> Iterator[Page]:  # noqa: F811
    """A tab on the real site that fails the test on an error, a refusal by the policy or a request elsewhere."""
    problems: list[str] = []
    application = FastAPI()
    mount_guide(application, built)
    with serve(application) as url, sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        page = browser.new_context(base_url=url).new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(url) else problems.append(asked.url))
        yield page
        browser.close()
    assert problems == []


def test_it_is_searched_in_the_browser(tab: Page) -> None:
    """A word brings the page that explains it, which opens; no request leaves for another host."""
    tab.goto("/guide/")
    tab.get_by_role("button", name="Search").first.click()
    tab.keyboard.type("gradual unfreezing")
    found = tab.locator("a[href*='freeze-policy']").filter(visible=True).filter(has_text="nfreez").first
    expect(found).to_be_visible()
    found.click()
    expect(tab.get_by_role("heading", level=1)).to_contain_text("Freeze policies")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_pages_are_accessible(tab: Page, scheme: Any) -> None:
    """By axe, but for what the theme's own script adds: buttons for copying are a landmark each, all of one name."""
    tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    found: list[tuple[str, str]] = []
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        for path in ("", "tutorials/classify-texts/", "api/", "architectures/", "errors/invalid_freeze_policy/"):
            tab.goto(f"/guide/{path}")
            found += [(path, violation["id"]) for violation in Axe().run(tab).response["violations"]]
            if tab.evaluate("document.documentElement.scrollWidth") > width:
                found.append((path, "wider than its window"))
    assert [each for each in found if each[1] != "landmark-unique"] == []


def test_an_error_leads_to_its_page(client: TestClient, built: Path) -> None:  # noqa: F811
    """A problem document's `type` is the address of a page of the built guide."""
    answer = client.get("http://testserver/v1/files/file-none", headers={"accept": "application/problem+json"})
    assert answer.json()["type"] == "/guide/errors/not_found"
    application = FastAPI()
    mount_guide(application, built)
    page = TestClient(application).get(answer.json()["type"])
    assert page.status_code == 200 and "What to do." in page.text


def test_the_overview_leads_to_pages_that_are_there(client: TestClient, built: Path) -> None:  # noqa: F811
    """Each of its links, in this service and the built guide; the site has the same text."""
    answer = client.get("http://testserver/llms.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith("# Permafrost\n\n> ")
    links = re.findall(r"\]\(([^)]+)\)", answer.text)
    assert len(links) > 10 and "/openapi.json" in links
    application = FastAPI()
    mount_guide(application, built)
    for link in links:
        reader = TestClient(application) if link.startswith("/guide/") else client
        assert reader.get(f"http://testserver{link}").status_code == 200, link
    assert (built / "site" / "llms.txt").read_text("utf-8") == answer.text
