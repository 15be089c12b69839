"""The pages in a real browser, with no network beyond this machine."""

import json
import shutil
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from openai import OpenAI
from playwright.sync_api import Browser, BrowserType, Page, expect, sync_playwright
from playwright.sync_api import Error as BrowserError

from app.jobs import lifecycle
from app.jobs.attempt import News
from tests.app.conftest import AFFINE, rows
from tests.app.jobs.test_api import claim, finish

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def page(socket_url: str) -> Iterator[Page]:
    """A tab that fails the test on any script error and on any request to another host."""
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        tab = browser.new_context(base_url=socket_url, accept_downloads=True).new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        tab.on("request", lambda asked: problems.append(asked.url) if _elsewhere(asked.url, socket_url) else None)
        yield tab
        browser.close()
    assert problems == []


def launch(chromium: BrowserType) -> Browser:
    """Playwright's own browser, else the system's."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    try:
        return chromium.launch(executable_path=found, args=["--no-sandbox"])
    except BrowserError as problem:
        pytest.skip(f"NO BROWSER: none of {', '.join(NAMES)} is installed, and playwright says {problem!s:.200}")


def _elsewhere(url: str, own: str) -> bool:
    return not url.startswith((own, "data:", "blob:"))


@pytest.fixture
def sdk(socket_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{socket_url}/v1", api_key="none") as made:
        yield made


def upload(sdk: OpenAI) -> str:
    content = "\n".join(map(json.dumps, rows())).encode()
    return sdk.files.create(file=("train.jsonl", content), purpose="fine-tune").id


def test_a_job_is_submitted_from_the_documentation(page: Page, sdk: OpenAI) -> None:
    """`Try it out` with the first example, on a real file: the job is there."""
    file = upload(sdk)
    page.goto("/docs#/Fine-tuning/createFineTuningJob")
    operation = page.locator("#operations-Fine-tuning-createFineTuningJob")
    body = operation.locator("textarea.body-param__text")
    body.wait_for()
    wanted = json.loads(body.input_value())
    assert wanted["freeze_policy"]["mechanism"] == "requires_grad"
    wanted |= {"training_file": file, "model": AFFINE}
    body.fill(json.dumps(wanted))
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table tbody .response-col_status")).to_have_text("200")
    (job,) = sdk.fine_tuning.jobs.list()
    assert job.training_file == file


def test_every_operation_is_documented(page: Page) -> None:
    """Swagger UI renders the whole document: one block per operation, none in error."""
    page.goto("/docs")
    page.locator(".opblock").first.wait_for()
    document = page.request.get("/openapi.json").json()
    operations = [each for path in document["paths"].values() for each in path]
    expect(page.locator(".opblock")).to_have_count(len(operations))
    expect(page.locator(".errors-wrapper")).to_have_count(0)


def test_a_jobs_page_follows_the_job(page: Page, sdk: OpenAI, embedded: FastAPI) -> None:
    """State, progress, curve and verdict change on the open page, without reloading it."""
    db = embedded.state.backends.database
    job = sdk.fine_tuning.jobs.create(
        model="-", training_file=upload(sdk), extra_body={"model": AFFINE, "freeze_policy": {"freeze": ["weight"]}}
    )
    page.goto(f"/jobs/{job.id}")
    page.evaluate("window.stillHere = true")
    expect(page.locator("#head .badge")).to_have_text("queued")
    lease = claim(db)
    progress = {"step": 5, "total_steps": 10, "percent": 50.0, "eta_seconds": 3}
    lifecycle.beat(db, lease, News(progress=progress, metrics=[(n, "train", {"loss": 1 / n}) for n in range(1, 6)]))
    expect(page.locator("#head .badge")).to_have_text("running")
    expect(page.get_by_role("progressbar", name="Progress")).to_have_attribute("aria-valuenow", "50")
    page.locator("svg.curve").hover()
    expect(page.locator(".reading")).to_contain_text("training")
    finish(db, lease)
    expect(page.locator("#evidence .badge")).to_have_text("verified")
    expect(page.locator("#parameters tbody tr")).to_have_count(2)
    assert page.evaluate("window.stillHere")
    with page.expect_download() as download:
        page.get_by_role("link", name="Attestation").click()
    assert download.value.suggested_filename == f"{job.id}.attestation.json"


def test_a_job_is_paused_and_cancelled_from_its_page(page: Page, sdk: OpenAI) -> None:
    """The buttons do what they say; cancelling asks first."""
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    page.goto(f"/jobs/{job.id}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#head .badge")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#head .badge")).to_have_text("queued")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#head .badge")).to_have_text("cancelled")
    assert sdk.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
