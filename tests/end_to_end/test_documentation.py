"""The API page of a running service in a real browser: what it offers to try runs, as it stands."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.app.pages.test_browser import launch
from tests.end_to_end.conftest import Service

OPERATION = "#operations-Fine-tuning-createFineTuningJob"


@pytest.fixture
def page(service: Service) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        tab = browser.new_context(base_url=str(service.client.base_url).removesuffix("/v1/")).new_page()
        yield tab
        browser.close()


@pytest.mark.slow
def test_every_mechanism_runs_from_the_page(service: Service, page: Page) -> None:
    """An example is chosen and executed, nothing typed: the job succeeds and its evidence is verified, three times."""
    page.goto("/docs#/Fine-tuning/createFineTuningJob")
    operation = page.locator(OPERATION)
    for mechanism in ("requires_grad", "detach", "param_group"):
        operation.locator(".examples-select-element, select.examples-select-element").first.select_option(mechanism)
        expect(operation.locator("textarea.body-param__text")).to_have_value(re.compile(f'"mechanism": "{mechanism}"'))
        with page.expect_response(lambda answer: answer.url.endswith("/v1/fine_tuning/jobs")) as answered:
            operation.get_by_role("button", name="Execute").click()
        assert answered.value.status == 200, answered.value.text()
        expect(operation.locator(".live-responses-table tbody .response-col_status")).to_have_text("200")
        job = service.ended(answered.value.json()["id"])
        assert (job["status"], job["evidence"]["verdict"]) == ("succeeded", "verified")
        assert job["freeze_policy"]["rules"][0]["mechanism"] == mechanism
