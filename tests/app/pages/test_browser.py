"""The pages in a real browser, with no network beyond this machine."""

import json
import shutil
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from openai import OpenAI
from playwright.sync_api import Browser, BrowserType, Page, expect, sync_playwright
from playwright.sync_api import Error as BrowserError

from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates
from app.logs.queries import append
from tests.app.conftest import AFFINE, rows
from tests.app.jobs.jobs import claim, finish, result
from tests.patience import PATIENCE

#: Five seconds, playwright's own limit, are little on a busy machine.
expect.set_options(timeout=1000 * PATIENCE)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def page(socket_url: str) -> Iterator[Page]:
    """A tab that fails the test on any script error and on any request to another host."""
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        tab = browser.new_context(base_url=socket_url, accept_downloads=True).new_page()
        tab.set_default_timeout(1000 * PATIENCE)
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
    lifecycle.beat(
        db, lease, AttemptUpdates(progress=progress, metrics=[(n, "train", {"loss": 1 / n}) for n in range(1, 6)])
    )
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


def test_a_refresh_keeps_what_the_reader_does(page: Page, sdk: OpenAI, embedded: FastAPI) -> None:
    """Focus and the place in the log stay while parts of the page are swapped; a log at its end follows it."""
    db = embedded.state.backends.database
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    lease = claim(db)
    printed = [f"line {n}" for n in range(100)]
    with db.write() as session:
        append(session, job.id, 1, printed[:50])
    page.goto(f"/jobs/{job.id}")
    log = page.locator(".printed")
    at_end = "box => box.scrollTop + box.clientHeight >= box.scrollHeight - 4"
    assert log.evaluate(at_end)
    page.get_by_role("button", name="Pause").focus()
    with db.write() as session:
        append(session, job.id, 1, printed[50:])
    lifecycle.beat(db, lease, AttemptUpdates(progress={"step": 1, "total_steps": 2, "percent": 50.0}))
    expect(log).to_contain_text("line 99")
    assert log.evaluate(at_end)
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    log.evaluate("box => box.scrollTop = 7")
    finish(db, lease, model=result(job.id))
    expect(page.locator("#evidence .badge")).to_have_text("verified")
    assert log.evaluate("box => box.scrollTop") == 7


def test_the_commands_are_copied(page: Page, sdk: OpenAI, embedded: FastAPI) -> None:
    """The button puts on the clipboard what it stands beside."""
    db = embedded.state.backends.database
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    finish(db, claim(db), model=result(job.id))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/jobs/{job.id}")
    page.locator(".command", has_text="permafrost verify").get_by_role("button", name="Copy").click()
    expect(page.locator(".command", has_text="permafrost verify").get_by_role("button")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"permafrost verify attestation.json --key keys.json --result result --base-root {'ab' * 32}"
    page.get_by_text("Fetch the files").click()
    expect(page.locator("#evidence details pre")).to_contain_text(f"/v1/fine_tuning/jobs/{job.id}/attestation")


def test_the_curve_is_read_by_keys(page: Page, sdk: OpenAI, embedded: FastAPI) -> None:
    """Arrow keys go from point to point, and the reading is text."""
    db = embedded.state.backends.database
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    lifecycle.beat(db, claim(db), AttemptUpdates(metrics=[(n, "train", {"loss": 8 / n}) for n in (1, 2, 4)]))
    page.goto(f"/jobs/{job.id}")
    page.locator("svg.curve").focus()
    for key, told in (("ArrowRight", "8.0000 at step 1"), ("ArrowRight", "4.0000 at step 2"), ("ArrowLeft", "step 1")):
        page.keyboard.press(key)
        expect(page.locator(".reading")).to_contain_text(told)


def test_the_freeze_map_is_read_by_keys_and_pointer(page: Page, sdk: OpenAI, embedded: FastAPI) -> None:
    """Each tensor by name, shape, what became of it and digest; the report opens from the page."""
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    finish(embedded.state.backends.database, claim(embedded.state.backends.database), verdict="violated")
    page.goto(f"/jobs/{job.id}")
    tensors = page.locator("svg.map[role=img] g path")
    expect(tensors).to_have_count(2)
    page.locator("svg.map[role=img]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tensor")).to_contain_text("bias")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".tensor")).to_contain_text("weight 2")
    tensors.first.hover()
    expect(page.locator(".tensor")).to_contain_text("bias")
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", name="Verdict: violated")).to_be_visible()


def test_a_page_says_when_the_service_is_away(page: Page, sdk: OpenAI) -> None:
    """What is shown may be old then; it goes when the service is back."""
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    page.goto(f"/jobs/{job.id}")
    expect(page.locator("#away")).to_be_hidden()
    # Not by a broken connection: a browser reports those as errors of the page.
    page.evaluate("() => { window.real = fetch; window.fetch = () => Promise.reject(new TypeError('away')) }")
    sdk.fine_tuning.jobs.cancel(job.id)
    expect(page.locator("#away")).to_be_visible()
    page.evaluate("() => { window.fetch = window.real }")
    expect(page.locator("#head .badge")).to_have_text("cancelled")
    expect(page.locator("#away")).to_be_hidden()


@pytest.mark.parametrize("path", ["/", "job", "report"])
def test_nothing_is_wider_than_a_phone(page: Page, sdk: OpenAI, embedded: FastAPI, path: str) -> None:
    """With names of any length; the columns of a table become lines."""
    db = embedded.state.backends.database
    more = {"model": AFFINE, "metadata": {"k" * 64: "v" * 512}, "tags": ["t" * 64], "suffix": "s" * 40}
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body=more)
    finish(db, claim(db), model=result(job.id))
    page.set_viewport_size({"width": 390, "height": 844})
    urls = {"/": "/", "job": f"/jobs/{job.id}", "report": f"/v1/fine_tuning/jobs/{job.id}/report"}
    page.goto(urls[path])
    page.get_by_text("succeeded").first.wait_for()
    wide = """() => [...document.querySelectorAll("body *")]
        .filter(each => each.getBoundingClientRect().right > 391 && !each.closest("pre, thead, .skip"))
        .map(each => each.outerHTML.slice(0, 120))"""
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_job_is_paused_and_cancelled_from_its_page(page: Page, sdk: OpenAI) -> None:
    """The buttons do what they say; cancelling asks first."""
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    page.goto(f"/jobs/{job.id}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#head .badge")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#head .badge")).to_have_text("queued")
    page.get_by_text("Cancel …").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#head .badge")).to_have_text("cancelled")
    assert sdk.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
