"""Secrets and paths are removed from logs."""

import pytest

from app.logs.redaction import redacted


@pytest.mark.parametrize(
    ("printed", "stored"),
    [
        ("key pf_abcd1234_" + "0f" * 32 + " used", "key pf_abcd1234_*** used"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer ***"),
        ("postgresql+psycopg://user:hunter22@db/x", "postgresql+psycopg://***@db/x"),
        ("hf_abcdefghijklmnopqrst", "hf_***"),
        ("API_KEY=abcdefgh1234", "API_KEY=***"),
        ('{"client_secret": "abcdefgh"}', '{"client_secret": "***"}'),
        ("a\n-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\nb", "a\n[private key]\nb"),
        ("File /srv/data/work/ftjob-1/a1/data/x.csv", "File <job>/data/x.csv"),
        ("File /srv/data/keys", "File <data>/keys"),
        ("eos_token_id=50256, pad_token: '<|endoftext|>', loss=1.25", None),
        ("secrets of the trade: none", None),
        ("https://example.org/a:b", None),
    ],
)
def test_what_must_not_be_read_is_left_out(printed: str, stored: str | None) -> None:
    """Keys, passwords, the server's own folders; what only looks a little like them stays."""
    places = {"/srv/data": "<data>", "/srv/data/work/ftjob-1/a1": "<job>"}
    assert redacted(printed, places) == (printed if stored is None else stored)
