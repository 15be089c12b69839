"""What a process leaves for its worker: a result, or a refusal with its message and code."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import ModelError
from app.webhooks.addresses import AddressRefused
from worker.supervisor.sources.answer import write_answer
from worker.supervisor.sources.arriving import Later, SourceRefused


@pytest.mark.parametrize(
    ("raised", "answer"),
    [
        (None, {"commit": "c0ffee"}),
        (SourceRefused("no such file", code="source_not_found"), {"error": "no such file", "code": "source_not_found"}),
        (ModelError("two weights", param="model", code="bad"), {"error": "two weights", "code": "bad"}),
        (AddressRefused("10.0.0.1"), {"error": "not from there", "code": "refused"}),
        (Later("cut off"), {"error": "cut off", "code": "away", "again": True}),
    ],
)
def test_each_end_has_its_answer(raised: Exception | None, answer: dict[str, Any], tmp_path: Path) -> None:
    """Only what may succeed later is marked to be tried again."""

    def work() -> dict[str, Any]:
        if raised is not None:
            raise raised
        return {"commit": "c0ffee"}

    path = tmp_path / "answer.json"
    write_answer(str(path), work, address_refused=("not from there", "refused"), later="away")
    assert json.loads(path.read_text()) == answer
