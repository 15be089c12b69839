"""The pages in a real browser, with no network beyond this machine."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from openai import OpenAI
from playwright.sync_api import Browser, BrowserType, Page, expect, sync_playwright
from playwright.sync_api import Error as BrowserError

from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.logs.queries import append
from tests.app.conftest import AFFINE, rows, serve
from tests.app.guarded import Guarded, guard
from tests.app.jobs.jobs import claim, finish, parameter, result
from tests.patience import PATIENCE

#: Five seconds, playwright's own limit, are little on a busy machine.
expect.set_options(timeout=1000 * PATIENCE)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def page(socket_url: str) -> Iterator[Page]:
    """A tab that fails the test on any script error and on any request to another host."""
    with tab(socket_url) as opened:
        yield opened


@contextmanager
def tab(url: str, *, expected: str = "nothing") -> Iterator[Page]:
    """Fails on any script error, but one with the words that are `expected`, and on any request to another host."""
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        opened = browser.new_context(base_url=url, accept_downloads=True).new_page()
        opened.set_default_timeout(1000 * PATIENCE)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        opened.on("request", lambda asked: problems.append(asked.url) if _elsewhere(asked.url, url) else None)
        yield opened
        browser.close()
    assert [each for each in problems if expected not in each] == []


@pytest.fixture
def guarded(embedded: FastAPI) -> Guarded:
    return guard(embedded.state.backends.settings)


@pytest.fixture
def guarded_page(guarded: Guarded) -> Iterator[Page]:
    """A tab of a service that asks for keys: a browser counts the refusal as an error of the page."""
    with serve(guarded.application) as url, tab(url, expected="401") as opened:
        yield opened


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
    """`Try it out` with the first example, on a real file: the job is there; that of sweeps runs as it stands."""
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

    page.goto("/docs#/Sweeps/createFineTuningSweep")
    page.reload()
    operation = page.locator("#operations-Sweeps-createFineTuningSweep")
    operation.locator("textarea.body-param__text").wait_for()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table tbody .response-col_status")).to_have_text("200")


def test_every_operation_is_documented(page: Page) -> None:
    """Swagger UI renders the whole document: one block per operation, none in error."""
    page.goto("/docs")
    page.locator(".opblock").first.wait_for()
    document = page.request.get("/openapi.json").json()
    operations = [each for path in document["paths"].values() for each in path]
    expect(page.locator(".opblock")).to_have_count(len(operations))
    expect(page.locator(".errors-wrapper")).to_have_count(0)


def test_error_answers_are_read_once_and_shown_in_every_operation(page: Page) -> None:
    """The page shares them; an opened operation has the words, the example and the status of each."""
    page.goto("/docs#/Fine-tuning/createFineTuningJob")
    operation = page.locator("#operations-Fine-tuning-createFineTuningJob")
    rows = operation.locator("tr.response")
    document = page.request.get("/openapi.json").json()
    answers = document["paths"]["/v1/fine_tuning/jobs"]["post"]["responses"]
    expect(rows).to_have_count(len(answers))
    row = operation.locator("tr.response[data-code='401']")
    expect(row).to_contain_text(answers["401"]["description"])
    expect(row).to_contain_text("invalid_api_key")
    shared = page.evaluate("Object.keys(ui.specSelectors.specJson().toJS().components.responses).length")
    assert 0 < shared < 40


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


def test_a_picture_higher_than_the_window_is_read_by_keys(page: Page, sdk: OpenAI, embedded: FastAPI) -> None:
    """What is read, and the words for it, stay in sight; up and down go by layers."""
    db = embedded.state.backends.database
    job = sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    names = [f"layers.{layer}.{part}" for layer in range(200) for part in ("a", "b", "c")]
    tensors = [parameter(job.id, at, name, "frozen", False) for at, name in enumerate(names)]
    evidence = Evidence(job_id=job.id, attempt=1, verdict="verified", frozen_tensors=600, frozen_bytes=8)
    lifecycle.finish(db, claim(db), Outcome("succeeded", evidence=evidence, parameters=tensors, model=result(job.id)))
    page.goto(f"/jobs/{job.id}")
    page.locator("svg.map[role=img]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    for key, name in [("ArrowDown", "layers.1 · b"), ("End", "layers.199 · c"), ("ArrowUp", "layers.198 · c")]:
        page.keyboard.press(key)
        expect(page.locator(".tensor")).to_contain_text(name)
        expect(page.locator(".tensor")).to_be_in_viewport(ratio=0.9)
        expect(page.locator("svg.map path.read")).to_be_in_viewport()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".tensor")).to_contain_text("layers.0 · a")


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


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A training file, as it lies on the disk of whoever uses the form."""
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    return path


def test_a_job_is_submitted_by_the_form(page: Page, sdk: OpenAI, embedded: FastAPI, sample: Path) -> None:
    """Upload, preview as the form is filled in, submit, watch, verdict, download: without a script error."""
    db = embedded.state.backends.database
    page.goto("/")
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("Upload one").set_input_files(sample)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("#uploaded")).to_contain_text("Uploaded table.jsonl")
    page.get_by_label("Model", exact=True).fill(json.dumps(AFFINE))
    expect(page.locator("#preview")).to_contain_text("2 tensors trained")
    page.get_by_label("Policy as JSON").fill('{"freeze": ["wieght"]}')
    expect(page.locator("#preview")).to_contain_text("weight")
    expect(page.locator("#preview [role=alert]")).to_be_visible()
    page.get_by_label("Policy as JSON").fill('{"freeze": ["weight"]}')
    expect(page.locator("#preview")).to_contain_text("1 tensor frozen")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#head .badge")).to_have_text("queued")
    (job,) = sdk.fine_tuning.jobs.list()
    assert page.url.endswith(f"/jobs/{job.id}")
    finish(db, claim(db), model=result(job.id))
    expect(page.locator("#evidence .badge")).to_have_text("verified")
    with page.expect_download() as download:
        page.get_by_role("link", name="Attestation").click()
    assert download.value.suggested_filename == f"{job.id}.attestation.json"


def test_the_form_is_filled_in_by_keys_alone(page: Page, sdk: OpenAI) -> None:
    """From field to field by the tabulator, a preset by the arrows, and the button by Enter."""
    upload(sdk)
    page.goto("/new")
    page.get_by_label("Model", exact=True).focus()
    page.keyboard.type(json.dumps(AFFINE))
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "preset":
            break
    page.keyboard.press("ArrowDown")
    expect(page.locator("#preview")).to_contain_text("1 tensor frozen")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "submit":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#head .badge")).to_have_text("queued")
    (job,) = sdk.fine_tuning.jobs.list()
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#head .badge")).to_have_text("paused")
    page.get_by_text("Cancel …").focus()
    for key in ("Enter", "Tab", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#head .badge")).to_have_text("cancelled")
    assert sdk.fine_tuning.jobs.retrieve(job.id).status == "cancelled"


def test_all_of_it_works_without_scripts(page: Page, sdk: OpenAI, sample: Path) -> None:
    """The form's upload, preview and submission, and what a job's page does, are plain forms."""
    assert page.context.browser is not None
    plain = page.context.browser.new_context(java_script_enabled=False).new_page()
    base = str(sdk.base_url).removesuffix("/v1/")
    plain.goto(f"{base}/new")
    plain.get_by_label("Upload one").set_input_files(sample)
    plain.get_by_role("button", name="Upload", exact=True).click()
    plain.get_by_label("Model", exact=True).fill(json.dumps(AFFINE))
    plain.get_by_label("Train the head").check()
    plain.get_by_role("button", name="Preview").click()
    expect(plain.locator("#preview")).to_contain_text("8 examples")
    plain.get_by_role("button", name="Submit").click()
    expect(plain.locator("#head .badge")).to_have_text("queued")
    plain.get_by_text("Cancel …").click()
    plain.get_by_role("button", name="Cancel the job").click()
    expect(plain.locator("#head .badge")).to_have_text("cancelled")


def test_somebody_signs_in_and_out(guarded_page: Page, guarded: Guarded) -> None:
    """The key once, then the page that was wanted, with what the role may do; after it nothing."""
    guarded_page.goto("/?status=queued")
    guarded_page.get_by_role("textbox", name="API key").fill(guarded.keys["mine", "writer"])
    guarded_page.keyboard.press("Enter")
    expect(guarded_page.get_by_role("heading", name="Queued")).to_be_visible()
    assert guarded_page.evaluate("document.cookie") == ""
    guarded_page.get_by_role("link", name="New job").first.click()
    guarded_page.get_by_label("Model", exact=True).fill(json.dumps(AFFINE))
    expect(guarded_page.locator("#preview")).to_contain_text("2 tensors trained")
    guarded_page.get_by_role("button", name="Sign out").click()
    guarded_page.goto("/")
    expect(guarded_page.get_by_role("textbox", name="API key")).to_be_visible()


def test_a_session_that_has_ended_is_said(guarded_page: Page, guarded: Guarded) -> None:
    """By the preview, beside what is filled in; a page that follows its jobs asks for the key."""
    guarded_page.goto("/new")
    guarded_page.get_by_role("textbox", name="API key").fill(guarded.keys["mine", "writer"])
    guarded_page.keyboard.press("Enter")
    guarded_page.get_by_label("Model", exact=True).fill("kept")
    expect(guarded_page.locator("#preview")).to_contain_text("no model is named 'kept'")
    (signed_in,) = guarded_page.context.cookies()
    guarded_page.context.clear_cookies()
    guarded_page.get_by_label("Train the biases alone").check()
    expect(guarded_page.locator("#preview")).to_contain_text("session of this page has ended")
    expect(guarded_page.get_by_label("Model", exact=True)).to_have_value("kept")

    url = guarded_page.url
    guarded_page.context.add_cookies([{"name": signed_in["name"], "value": signed_in["value"], "url": url}])
    guarded_page.goto("/")
    expect(guarded_page.get_by_text("No job yet.")).to_be_visible()
    guarded_page.wait_for_function("source?.readyState === EventSource.OPEN")
    guarded_page.context.clear_cookies()
    with OpenAI(base_url=f"{guarded_page.url}v1", api_key=guarded.keys["mine", "writer"]) as sdk:
        sdk.fine_tuning.jobs.create(model="-", training_file=upload(sdk), extra_body={"model": AFFINE})
    expect(guarded_page.get_by_role("textbox", name="API key")).to_be_visible()
