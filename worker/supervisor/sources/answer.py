"""The answer that a process which fetches or sends leaves for its worker: what it has done, or why it could not."""

import json
from collections.abc import Callable
from pathlib import Path

from app.errors import ModelError
from app.jsontypes import JsonDict
from app.webhooks.addresses import AddressRefused
from worker.supervisor.sources.arriving import Later, SourceRefused


def write_answer(path: str, work: Callable[[], JsonDict], *, address_refused: tuple[str, str], later: str) -> None:
    """Do the work and write its result to a file, or the message and code of its refusal.

    `address_refused` is the message and code for an address that it may not connect to, `later` the code for what may
    succeed in another attempt.
    """
    try:
        result = work()
    except (SourceRefused, ModelError) as error:
        result = {"error": str(error), "code": error.code}
    except AddressRefused:
        message, code = address_refused
        result = {"error": message, "code": code}
    except Later as error:
        result = {"error": str(error), "code": later, "again": True}
    Path(path).write_text(json.dumps(result))
