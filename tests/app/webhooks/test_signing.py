"""Signatures as Standard Webhooks specifies them, checked by its own library."""

import json
import time

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from app.webhooks import signing

BODY = '{"type":"fine_tuning.job.succeeded"}'


def test_every_secret_verifies_what_it_signed() -> None:
    """With two secrets, receivers with either accept the event; a third secret, or another body, is refused."""
    old, new, other = signing.new_secret(), signing.new_secret(), signing.new_secret()
    headers = signing.headers(BODY, event_id="evt-1", timestamp=int(time.time()), with_secrets=[new, old])
    assert headers["webhook-id"] == "evt-1"

    for secret in (old, new):
        receiver = Webhook(signing.written(secret))
        assert receiver.verify(BODY, headers) == json.loads(BODY)
        with pytest.raises(WebhookVerificationError):
            receiver.verify(BODY.replace("succeeded", "failed"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.written(other)).verify(BODY, headers)


def test_a_hint_shows_the_end_of_a_secret_only() -> None:
    """Four characters of it."""
    secret = signing.new_secret()
    hint = signing.hint(secret)
    assert hint.startswith("whsec_…") and len(hint) == len("whsec_…") + 4
    assert signing.written(secret)[-5:-1] == hint[-4:]
