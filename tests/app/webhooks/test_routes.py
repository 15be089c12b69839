"""Webhook endpoints by the official SDK, each of its clients; signatures by its own `unwrap`."""

from typing import Any

import openai
import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook

from tests.app.webhooks.receiver import Receiver, receiver

TYPES: Any = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
URL = "https://hooks.example.org/permafrost"


def test_every_call_of_the_resource(every_sdk: OpenAI):
    """create, retrieve, update, list, rotate, test, delete: each parses under the SDK's own types."""
    with receiver() as there:
        made = every_sdk.webhooks.create(name="results", url=there.url, event_types=TYPES)
        assert made.object == "webhook_endpoint" and made.signing_secret.startswith("whsec_")
        assert made.signing_secret_hint and made.signing_secret_hint.split("…")[1] in made.signing_secret
        read = every_sdk.webhooks.retrieve(made.id)
        assert (read.name, read.url, read.event_types) == ("results", there.url, TYPES)
        assert not hasattr(read, "signing_secret") and read.updated_at == read.created_at
        changed = every_sdk.webhooks.update(made.id, name="all", event_types=TYPES[:1] * 2)
        assert (changed.name, changed.url, changed.event_types) == ("all", there.url, TYPES[:1])
        tested = every_sdk.webhooks.test(made.id, event_type=TYPES[0])
        assert (tested.status_code, tested.success, tested.webhook_endpoint_id) == (200, True, made.id)
        rotated = every_sdk.webhooks.rotate_secret(made.id)
        assert rotated.signing_secret != made.signing_secret
    assert every_sdk.webhooks.event_types.list().data[:3] == TYPES
    assert [each.id for each in every_sdk.webhooks.list()] == [made.id]
    assert every_sdk.webhooks.delete(made.id).deleted is True
    assert list(every_sdk.webhooks.list()) == []
    with pytest.raises(openai.NotFoundError):
        every_sdk.webhooks.retrieve(made.id)


def test_lists_are_read_page_by_page(every_sdk: OpenAI):
    """Newest first, `after` exclusive, to the end; an unknown cursor is a 400."""
    made = [every_sdk.webhooks.create(name=str(n), url=URL, event_types=TYPES).id for n in range(5)]
    first = every_sdk.webhooks.list(limit=2)
    assert [each.id for each in first.data] == made[:2:-1] and first.has_more
    assert [each.id for each in first] == made[::-1]
    every_sdk.webhooks.delete(made[3])
    assert [each.id for each in every_sdk.webhooks.list(after=made[3])] == made[2::-1]
    with pytest.raises(openai.BadRequestError) as refused:
        every_sdk.webhooks.list(after="we-none")
    assert refused.value.param == "after"


def test_unwrap_accepts_a_test_event_and_nothing_else(every_sdk: OpenAI):
    """The right secret verifies; another secret, another body, or another id does not."""
    with receiver() as there:
        made = every_sdk.webhooks.create(name="a", url=there.url, event_types=TYPES)
        every_sdk.webhooks.test(made.id, event_type="fine_tuning.job.succeeded")
    got = there.received[0]
    event = every_sdk.webhooks.unwrap(got.body, got.headers, secret=made.signing_secret)
    assert event.type == "fine_tuning.job.succeeded" and event.object == "event" and event.data.id == "ftjob-test"
    assert event.id == {name.lower(): value for name, value in got.headers.items()}["webhook-id"]
    Webhook(made.signing_secret).verify(got.body, got.headers)  # the specification's own library agrees
    other = every_sdk.webhooks.create(name="b", url=there.url, event_types=TYPES).signing_secret
    renamed = {name: "evt-other" if name.lower() == "webhook-id" else value for name, value in got.headers.items()}
    for body, headers, secret in (
        (got.body, got.headers, other),
        (got.body + b" ", got.headers, made.signing_secret),
        (got.body, renamed, made.signing_secret),
    ):
        with pytest.raises(InvalidWebhookSignatureError):
            every_sdk.webhooks.unwrap(body, headers, secret=secret)


def sent(sdk: OpenAI, endpoint_id: str, there: Receiver) -> Any:
    sdk.webhooks.test(endpoint_id, event_type="fine_tuning.job.failed")
    return there.received[-1]


def test_rotation_with_and_without_overlap(every_sdk: OpenAI):
    """Kept, both secrets verify; not kept, only the new one does."""
    with receiver() as there:
        made = every_sdk.webhooks.create(name="a", url=there.url, event_types=TYPES)
        kept = every_sdk.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        got = sent(every_sdk, made.id, there)
        for secret in (made.signing_secret, kept.signing_secret):
            every_sdk.webhooks.unwrap(got.body, got.headers, secret=secret)
        last = every_sdk.webhooks.rotate_secret(made.id)
        got = sent(every_sdk, made.id, there)
        every_sdk.webhooks.unwrap(got.body, got.headers, secret=last.signing_secret)
        for secret in (made.signing_secret, kept.signing_secret):
            with pytest.raises(InvalidWebhookSignatureError):
                every_sdk.webhooks.unwrap(got.body, got.headers, secret=secret)


def test_a_repeated_create_gives_the_same_endpoint_and_secret(sdk: OpenAI):
    """The SDK repeats a POST whose answer was lost: one endpoint, and the secret is told after all."""
    made = sdk.webhooks.create(name="a", url=URL, event_types=TYPES)
    again = sdk.webhooks.create(name="a", url=URL, event_types=TYPES, extra_headers={"x-stainless-retry-count": "1"})
    assert (again.id, again.signing_secret) == (made.id, made.signing_secret)
    other = sdk.webhooks.create(name="a", url=URL, event_types=TYPES)
    assert other.id != made.id


def test_a_repeated_rotation_does_not_end_the_secret_that_receivers_have(sdk: OpenAI):
    """After a lost answer the same new secret is told, and the old one still signs beside it."""
    with receiver() as there:
        made = sdk.webhooks.create(name="a", url=there.url, event_types=TYPES)
        first = sdk.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        again = sdk.webhooks.rotate_secret(
            made.id, keep_old_secret_active_for_24_hours=True, extra_headers={"x-stainless-retry-count": "1"}
        )
        assert again.signing_secret == first.signing_secret
        got = sent(sdk, made.id, there)
    sdk.webhooks.unwrap(got.body, got.headers, secret=made.signing_secret)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"url": "http://169.254.169.254/latest"}, "url", "invalid_url"),
        ({"url": "https://10.0.0.1/"}, "url", "invalid_url"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "url", "invalid_url"),
        ({"url": "javascript:alert(1)"}, "url", "invalid_url"),
        ({"url": ""}, "url", "invalid_value"),
        ({"event_types": []}, "event_types", "invalid_value"),
        ({"event_types": ["batch.completed"]}, "event_types[0]", "invalid_value"),
        ({"name": ""}, "name", "invalid_value"),
        ({"name": 5}, "name", "invalid_value"),
        ({"secret": "whsec_x"}, "secret", "unknown_field"),
    ],
)
def test_what_is_refused_when_it_is_made_and_when_it_is_changed(
    sdk: OpenAI, change: dict[str, Any], param: str, code: str
):
    """400 with the field; addresses within this network are told from the URL alone where they stand in it."""
    good: dict[str, Any] = {"name": "a", "url": URL, "event_types": TYPES}
    made = sdk.webhooks.create(**good)
    for path, body in (("/webhook_endpoints", good | change), (f"/webhook_endpoints/{made.id}", change)):
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.post(path, body=body, cast_to=object)
        assert (refused.value.param, refused.value.code) == (param, code)
    assert sdk.webhooks.retrieve(made.id).url == URL


def test_a_test_that_does_not_arrive_says_why(sdk: OpenAI):
    """Nobody listens: 400, which the SDK does not repeat."""
    with receiver() as there:
        closed = there.url
    made = sdk.webhooks.create(name="a", url=closed, event_types=TYPES)
    with pytest.raises(openai.BadRequestError, match="refused"):
        sdk.webhooks.test(made.id, event_type=TYPES[0])


def test_a_failing_receiver_is_still_a_test_result(sdk: OpenAI):
    """`success` says that the request completed; how, says the status code."""
    with receiver(500) as there:
        made = sdk.webhooks.create(name="a", url=there.url, event_types=TYPES)
        assert sdk.webhooks.test(made.id, event_type=TYPES[0]).status_code == 500


def test_a_project_has_a_hundred_endpoints_at_most(sdk: OpenAI, monkeypatch: pytest.MonkeyPatch):
    """Every event makes a request to each of them."""
    monkeypatch.setattr("app.webhooks.endpoints.MAX_ENDPOINTS", 2)
    for name in "ab":
        sdk.webhooks.create(name=name, url=URL, event_types=TYPES)
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.webhooks.create(name="c", url=URL, event_types=TYPES)
    assert refused.value.code == "too_many_endpoints"


def test_no_answer_but_two_tells_a_secret(sdk: OpenAI):
    """Create and rotate show it; list, retrieve, update and test do not."""
    with receiver() as there:
        made = sdk.webhooks.create(name="a", url=there.url, event_types=TYPES)
        answers = [
            sdk.webhooks.with_raw_response.retrieve(made.id).text,
            sdk.webhooks.with_raw_response.list().text,
            sdk.webhooks.with_raw_response.update(made.id, name="b").text,
            sdk.webhooks.with_raw_response.test(made.id, event_type=TYPES[0]).text,
        ]
    secret = made.signing_secret.removeprefix("whsec_")
    assert len(secret) == 44 and not any(secret in text for text in answers)
