"""A small predicate for tests of statements."""

from datetime import UTC, datetime

from app.evidence.format.statement import FileRef, Predicate

PREDICATE = Predicate(
    job_id="ftjob-1",
    attempt=2,
    nonce=None,
    issued_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    policy={"default": "train", "rules": []},
    policy_digest="0" * 64,
    base_files=(FileRef("base.safetensors", 1 << 60, "1" * 64),),
    result_files=(FileRef("model.safetensors", 5, "2" * 64), FileRef("config.json", 6, "3" * 64)),
    rows=(),
    observed={"checks": 3, "first_step": 0, "last_step": 9, "fingerprint": "xxh3-128"},
)
