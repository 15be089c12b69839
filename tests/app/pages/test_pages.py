"""Pages for people: what they say, and that nothing comes from elsewhere."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.db import Database
from app.jobs import lifecycle
from app.jobs.attempt import News, Outcome
from app.jobs.notes import Note
from app.pages.curve import draw
from app.pages.format import duration, number, selector, size
from tests.app.conftest import AFFINE, Upload, rows
from tests.app.jobs.test_api import claim, finish


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

    VOID = frozenset({"meta", "link", "img", "line", "path", "circle", "input", "br"})

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
    assert "/?page=1&status=" in read(client, "/?page=2").links


@pytest.mark.parametrize("verdict", ["verified", "violated"])
def test_a_jobs_page_tells_the_whole_story(client: TestClient, job: str, db: Database, verdict: str) -> None:
    """Before, during and after the run: policy, progress, curve, verdict, tensors, downloads, the auditor's command."""
    assert "number 1 in the queue" in read(client, f"/jobs/{job}").text
    lease = claim(db)
    progress = {"step": 30, "total_steps": 60, "epoch": 0.5, "percent": 50.0, "eta_seconds": 70}
    news = News(progress=progress, notes=[Note("half <way>")])
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
    finish(db, lease, verdict=verdict)
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


def test_an_unknown_job_is_a_page_too(client: TestClient) -> None:
    """404, for people."""
    assert "no fine-tuning job" in read(client, "/jobs/ftjob-none", 404).text


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

    from app.pages.routes import FOLDER

    folder = FOLDER / "static" / "swagger-ui"
    pinned = re.findall(r"([0-9a-f]{64})  (\S+)", (folder / "README.md").read_text())
    assert len(pinned) == 2
    for digest, name in pinned:
        served = client.get(f"http://testserver/static/swagger-ui/{name}")
        assert hashlib.sha256(served.content).hexdigest() == digest


# ---- numbers and curves


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
        (number, 1_234_567, "1,234,567"),
        (number, 0.000123456, "0.0001235"),
        (number, 15_330.2, "15,330"),
        (number, float("nan"), "nan"),
        (number, True, "True"),
        (number, None, "–"),
        (selector, {"name": ["a.**", "b"]}, "name a.**, b"),
        (selector, {"layers": {"path": "enc", "first": 4}}, "layers of enc: first 4"),
        (selector, {"name": ["w"], "rows": [[0, 4], [6, 7]]}, "name w · rows 0–3, 6"),
    ],
)
def test_numbers_are_written_for_people(write: Callable[[Any], str], value: Any, expected: str) -> None:
    """Each filter at its edges."""
    assert write(value) == expected


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.5)],
        [(1, 0.5), (2, 0.5)],
        [(1, -3.0), (1_000_000, 5e9)],
        [(0, 1e-12), (3, 2e-12)],
        [(5, 0.0), (9, 0.0)],
    ],
)
def test_a_curve_stays_in_its_frame(points: list[tuple[int, float]]) -> None:
    """Every point and tick lies inside the axes, whatever the scale; ticks are distinct."""
    curve = draw({"train": points})
    assert curve is not None
    for x, y, _, _ in curve.lines[0].points:
        assert curve.left <= x <= curve.right
        assert curve.top <= y <= curve.bottom
    for ticks in (curve.up, curve.across):
        assert len({tick.label for tick in ticks}) == len(ticks) >= 1


def test_a_curve_leaves_out_what_is_not_finite() -> None:
    """A diverged run still has its curve up to there; nothing at all is no curve."""
    nan: Any = float("nan")
    curve = draw({"train": [(1, 1.0), (2, nan), (3, float("inf"))]})
    assert curve is not None
    assert [point[2] for point in curve.lines[0].points] == [1]
    assert draw({"train": [(1, nan)]}) is None
    assert draw({}) is None
