"""Pages for people: what they say, and that nothing comes from elsewhere."""

import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.evidence.tables import Evidence
from app.jobs.queue import lifecycle
from app.jobs.queue.attempt import AttemptUpdates, Outcome
from app.jobs.queue.event_log import NewEvent
from app.jobs.queue.tables import Job
from app.models.tables import Model
from app.pages import commands
from app.pages.format import adapter, ago, duration, number, selector, size
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.jobs import claim, finish, new_job, parameter, result


@pytest.fixture
def job(client: TestClient, upload: Upload) -> str:
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": {"freeze": ["weight"]}}
    return str(client.post("fine_tuning/jobs", json=body | {"metadata": {"team": "<b>x</b>"}}).json()["id"])


@pytest.fixture
def db(embedded: FastAPI) -> Database:
    made: Database = embedded.state.backends.database
    return made


class Page(HTMLParser):
    """Tags must close in order; collects ids, links and text."""

    VOID = frozenset({"meta", "link", "img", "line", "path", "circle", "rect", "input", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.links += [values[key] or "" for key in ("href", "src") if key in values]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(client: TestClient, path: str, status: int = 200) -> Page:
    answer = client.get(f"http://testserver{path}")
    assert answer.status_code == status, answer.text
    page = Page(answer.text)
    assert len(page.ids) == len(set(page.ids))
    return page


def test_the_dashboard_lists_jobs(client: TestClient, job: str) -> None:
    """With state, plan and verdict; what users wrote is text, not markup."""
    page = read(client, "/")
    assert f"/jobs/{job}" in page.links
    assert "team=<b>x</b>" in page.text
    for word in ("queued", "pending", "affine", "1 of 2"):
        assert word in page.text


def test_an_empty_dashboard_says_how_to_begin(client: TestClient) -> None:
    """Instead of an empty table."""
    assert "/v1/fine_tuning/jobs" in read(client, "/").text


def test_the_dashboard_filters_and_pages(client: TestClient, job: str) -> None:
    """By state; a page beyond the end is empty and leads back."""
    assert f"/jobs/{job}" in read(client, "/?status=queued").links
    assert f"/jobs/{job}" not in read(client, "/?status=failed").links
    assert "/" in read(client, "/?page=2").links
    assert "/" in read(client, "/?status=failed").links
    assert client.get("http://testserver/jobs", follow_redirects=False).headers["location"] == "/"


def test_the_dashboard_filters_by_verdict(client: TestClient, job: str, db: Database) -> None:
    """What an auditor looks for is one click away, and paging keeps to it."""
    assert "/?verdict=violated" not in read(client, "/").links
    finish(db, claim(db), verdict="violated")
    assert "/?verdict=violated" in read(client, "/").links
    assert f"/jobs/{job}" in read(client, "/?verdict=violated").links
    assert f"/jobs/{job}" not in read(client, "/?verdict=verified").links
    assert "/?verdict=violated&page=1" in read(client, "/?page=2&verdict=violated").links


@pytest.mark.parametrize("verdict", ["verified", "violated"])
def test_a_jobs_page_tells_the_whole_story(client: TestClient, job: str, db: Database, verdict: str) -> None:
    """Before, during and after the run: policy, progress, curve, verdict, tensors, downloads, the auditor's command."""
    assert "number 1 in the queue" in read(client, f"/jobs/{job}").text
    lease = claim(db)
    progress = {"step": 30, "total_steps": 60, "epoch": 0.5, "percent": 50.0, "eta_seconds": 70}
    news = AttemptUpdates(progress=progress, events=[NewEvent("half <way>")])
    news.metrics = [(step, "train", {"loss": 1 / step}) for step in range(1, 31)] + [(30, "valid", {"loss": 0.1})]
    lifecycle.beat(db, lease, news)
    during = read(client, f"/jobs/{job}")
    for word in (
        "step 30 of 60",
        "1 min 10 s left",
        "half <way>",
        "freeze",
        "name weight",
        "validation 0.1 at step 30",
    ):
        assert word in during.text
    finish(db, lease, verdict=verdict, model=result(job))
    after = read(client, f"/jobs/{job}")
    for word in (verdict, "bias", "weight", "permafrost verify", "ab" * 32):
        assert word in after.text
    assert f"/v1/fine_tuning/jobs/{job}/attestation" in after.links
    assert ("bit-identical to the base" in after.text) == (verdict == "verified")
    assert ("first changed at step 1" in after.text) == (verdict == "violated")
    assert "bias" not in read(client, f"/jobs/{job}?role=frozen").text.partition("Parameters")[2]


def test_a_failure_says_why(client: TestClient, job: str, db: Database) -> None:
    """With the lines of the data that were wrong."""
    error: dict[str, Any] = {"code": "invalid_training_data", "message": "2 problems", "param": "training_file"}
    errors = [{"line": 7, "field": "x", "code": "c", "message": "x is text"}]
    error |= {"errors": errors, "log_tail": ["Traceback", "KeyError: <x>"]}
    lifecycle.finish(db, claim(db), Outcome("failed", error=error))
    text = read(client, f"/jobs/{job}").text
    assert "2 problems" in text
    assert "line 7: x is text" in text
    assert "KeyError: <x>" in text


def test_a_failure_of_many_lines_says_how_many_more(client: TestClient, job: str, db: Database) -> None:
    """Twenty are shown; the rest is counted, and a link away."""
    errors = [{"line": line, "field": "x", "code": "c", "message": "is text"} for line in range(1, 31)]
    error: dict[str, Any] = {"code": "invalid_training_data", "message": "30 problems", "errors": errors}
    lifecycle.finish(db, claim(db), Outcome("failed", error=error))
    page = read(client, f"/jobs/{job}")
    assert "line 20: is text" in page.text
    assert "line 21: is text" not in page.text
    assert "and 10 more" in page.text
    assert f"/v1/fine_tuning/jobs/{job}" in page.links


def test_what_should_not_have_changed_comes_first(client: TestClient, job: str, db: Database) -> None:
    """Wherever it lies in the model."""
    evidence = Evidence(job_id=job, attempt=1, verdict="violated", frozen_tensors=0, frozen_bytes=0)
    tensors = [parameter(job, 0, "a.first", "trainable", True), parameter(job, 1, "b.fine", "frozen", False)]
    tensors.append(parameter(job, 2, "c.broken", "frozen", True))
    lifecycle.finish(db, claim(db), Outcome("succeeded", evidence=evidence, parameters=tensors))
    table = read(client, f"/jobs/{job}").text.partition("Beside the base")[2]
    assert table.index("c.broken") < table.index("a.first") < table.index("b.fine")
    assert "changed, though frozen" in table


@pytest.mark.parametrize("enforce", [True, False])
def test_a_violation_says_what_it_means_and_what_to_do(
    client: TestClient, upload: Upload, db: Database, enforce: bool
) -> None:
    """An audit that found something is another thing than a promise that was broken."""
    policy = {"freeze": ["weight"], "enforce": enforce}
    body = {"model": AFFINE, "training_file": upload(rows()), "freeze_policy": policy}
    job = str(client.post("fine_tuning/jobs", json=body).json()["id"])
    finish(db, claim(db), verdict="violated")
    text = read(client, f"/jobs/{job}").text
    assert "What to do" in text
    assert ("The policy was an audit" in text) == (not enforce)


def test_times_are_utc(client: TestClient, job: str) -> None:
    """Each says so, and none is left for a script to fill in."""
    text = read(client, f"/jobs/{job}").text
    assert re.search(r"\d{4}-\d\d-\d\d, times in UTC", text)
    assert re.search(r"Created\s*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)


def test_the_commands_fetch_and_verify() -> None:
    """With a key where one is asked for, quoted file names, and the base's files where a root says nothing of rows."""
    job, model = Job(id="ftjob-1"), Model(id="ft:a", files=[{"name": "model.safetensors"}, {"name": "a b.json"}])
    script = commands.fetch("http://h", job, model, with_key=True)
    assert script.count('curl -fsS -H "Authorization: Bearer $PERMAFROST_API_KEY" -o') == 3
    assert "for file in model.safetensors 'a b.json'; do" in script
    assert "Authorization" not in commands.fetch("http://h", job, None, with_key=False)
    evidence = Evidence(base_root="ab")
    assert commands.verify(evidence, rows=False).endswith("--base-root ab")
    assert commands.verify(evidence, rows=True).endswith("--base BASE_FOLDER")


def test_counts_and_lists_of_verdicts_agree(client: TestClient, job: str, db: Database, upload: Upload) -> None:
    """A job that ended without evidence is counted as such, and is not an incomplete one."""
    client.post(f"fine_tuning/jobs/{job}/cancel")
    made = [
        client.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": upload(rows())}).json()["id"]
        for _ in range(2)
    ]
    finish(db, claim(db), verdict="incomplete")
    page = read(client, "/")
    for chip in ("1 incomplete", "1 without evidence", "0 verified"):
        assert chip in page.text
    assert f"/jobs/{job}" in read(client, "/?verdict=none").links
    assert [f"/jobs/{each}" in read(client, "/?verdict=incomplete").links for each in (job, *made)] == [
        False,
        True,
        False,
    ]


def test_a_violation_is_one_line_for_one_cause(client: TestClient, job: str, db: Database) -> None:
    """Verdict and advice come first, each cause once, then the tensors in a folded list, the most changed on top."""
    lease = claim(db)
    names = [f"encoder.{number:03}" for number in range(103)]
    evidence = Evidence(job_id=job, attempt=1, verdict="violated", frozen_tensors=0, frozen_bytes=0)
    evidence.violations = [{"name": name, "first_bad_step": 1, "operation": "aten::_fused_adamw_"} for name in names]
    tensors = [parameter(job, at, name, "frozen", True) for at, name in enumerate(names)]
    for at, tensor in enumerate(tensors):
        tensor.stats = {"relative_l2": at / 100}
    lifecycle.finish(db, lease, Outcome("succeeded", evidence=evidence, parameters=tensors))
    answer = client.get(f"http://testserver/jobs/{job}").text
    page = Page(answer)
    assert "103 tensors that were declared frozen changed" in page.text
    assert page.text.count("aten::_fused_adamw_") == 1
    assert page.text.index("103 tensors that were") < page.text.index("What to do") < page.text.index("Progress")
    folded = answer.partition("<ol")[2].partition("</ol>")[0]
    assert folded.index("encoder.102") < folded.index("encoder.000")
    assert '<span class="badge violated" role="status">succeeded, violated</span>' in answer
    assert 'class="badge succeeded"' not in answer + client.get("http://testserver/").text
    assert "declared frozen" in page.text.partition("Freeze policy")[2]


def test_progress_shows_training_and_validation_apart(client: TestClient, job: str, db: Database) -> None:
    """Each loss under its own name, whichever was reported last."""
    lease = claim(db)
    for step, split, loss in ((1, "train", 4.5), (1, "valid", 0.25), (2, "train", 4.25)):
        news = AttemptUpdates(progress={"step": step, "total_steps": 9, "percent": 10.0})
        news.metrics = [(step, split, {"loss": loss})]
        lifecycle.beat(db, lease, news)
    text = re.sub(r"\s+", " ", read(client, f"/jobs/{job}").text)
    assert "training loss 4.25" in text
    assert "validation loss 0.25 at step 1" in text


def test_a_job_says_which_adapter_it_trains(client: TestClient, upload: Upload, db: Database) -> None:
    """On its page and in the list."""
    file = upload(rows())
    spec = {"type": "transformers", "path": "tiny", "adapter": {"type": "lora", "r": 4, "target_modules": ["q", "v"]}}
    lifecycle.submit(db, new_job(id="ftjob-lora", model="tiny", model_spec=spec, training_file=file))
    page = read(client, "/jobs/ftjob-lora")
    assert "LoRA, rank 4, alpha 16, on q, v" in page.text
    assert "tiny with LoRA" in page.text
    assert "LoRA" in read(client, "/").text


def test_an_unknown_job_is_a_page_too(client: TestClient) -> None:
    """404, for people."""
    assert "no fine-tuning job" in read(client, "/jobs/ftjob-none", 404).text


def test_the_menu_is_the_same_on_the_api_page(client: TestClient) -> None:
    """Without keys everybody may submit a job, from there as well."""
    assert "/new" in Page(client.get("http://testserver/docs").text).links


def test_the_api_page_says_what_to_read_without_javascript(client: TestClient) -> None:
    text = client.get("http://testserver/docs").text
    without = text.partition("<noscript>")[2].partition("</noscript>")[0]
    assert "/openapi.json" in Page(without).links


@pytest.mark.parametrize("path", ["/", "/docs", "/jobs/ftjob-none"])
def test_nothing_comes_from_elsewhere(client: TestClient, path: str) -> None:
    """Every link of a page is of this service and answers; the browser is told to load nothing else."""
    answer = client.get(f"http://testserver{path}")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    page = Page(answer.text)
    assert page.links
    for link in page.links:
        assert re.match(r"[/#](?!/)", link), link
        if link.startswith("/"):
            assert client.get(f"http://testserver{link.partition('#')[0]}").status_code == 200, link


def test_the_assets_of_the_documentation_are_what_was_vendored(client: TestClient) -> None:
    """Their digests stand in the README beside them."""
    import hashlib

    from app.pages.render import FOLDER

    folder = FOLDER / "static" / "swagger-ui"
    pinned = re.findall(r"([0-9a-f]{64})  (\S+)", (folder / "README.md").read_text())
    assert len(pinned) == 2
    for digest, name in pinned:
        served = client.get(f"http://testserver/static/swagger-ui/{name}")
        assert hashlib.sha256(served.content).hexdigest() == digest


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
def test_every_text_can_be_read(client: TestClient, scheme: int) -> None:
    """WCAG AA, 4.5 to 1, in the light and in the dark, on each ground that the colour stands on."""
    sheet = client.get("http://testserver/static/style.css").text
    colours = {name: pair[scheme] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", sheet)}
    grounds = {"panel", "sunken", "ground", "good-ground", "bad-ground", "warn-ground"}
    pairs = [(text, ground) for text in ("text", "muted", "accent") for ground in grounds]
    pairs += [(text, ground) for text in ("frozen", "train", "bad") for ground in ("panel", "sunken")]
    pairs += [(text, f"{text}-ground") for text in ("good", "bad", "warn")]
    for text, ground in pairs:
        dark, light = sorted((_luminance(colours[text]), _luminance(colours[ground])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


# ---- numbers


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (size, 0, "0 bytes"),
        (size, 999, "999 bytes"),
        (size, 999_999, "1.0 MB"),
        (size, 90_900_000, "90.9 MB"),
        (size, None, "–"),
        (duration, 0, "under 0.1 s"),
        (duration, 9.96, "10.0 s"),
        (duration, 59.6, "1 min 0 s"),
        (duration, 3_661, "1 h 1 min"),
        (lambda age: ago(int(time.time()) - age), 5, "just now"),
        (lambda age: ago(int(time.time()) - age), 3_590, "59 min ago"),
        (lambda age: ago(int(time.time()) - age), 3_610, "1 h ago"),
        (lambda age: ago(int(time.time()) - age), 3 * 86_400 + 60, "3 d ago"),
        (number, 1_234_567, "1,234,567"),
        (number, 0.000123456, "0.0001235"),
        (number, 15_330.2, "15,330"),
        (number, float("nan"), "nan"),
        (number, True, "True"),
        (number, None, "–"),
        (adapter, {"type": "lora", "use_dora": True, "merge": True}, "DoRA, rank 8, alpha 16, merged into the weights"),
        (adapter, {"type": "prompt_tuning", "num_virtual_tokens": 3}, "prompt tuning, 3 virtual tokens"),
        (adapter, {"type": "ia3", "start": "ft:a"}, "IA3, trained on from ft:a"),
        (selector, {"name": ["a.**", "b"]}, "name a.**, b"),
        (selector, {"layers": {"path": "enc", "first": 4}}, "layers of enc: first 4"),
        (selector, {"name": ["w"], "rows": [[0, 4], [6, 7]]}, "name w · rows 0–3, 6"),
    ],
)
def test_numbers_are_written_for_people(write: Callable[[Any], str], value: Any, expected: str) -> None:
    """Each filter at its edges."""
    assert write(value) == expected
