"""The process that fetches one training file by its reference: `python -m worker.supervisor.sources`."""

import sys
from pathlib import Path, PurePosixPath

from app.files.references import filename_of, hub_data, scheme_of, store_object
from app.jsontypes import JsonDict
from app.webhooks.addresses import Reach
from worker.supervisor.process.fetcher import take
from worker.supervisor.process.tied import LIFELINE, die_with
from worker.supervisor.sources import hub_data as hub
from worker.supervisor.sources import object_store, web
from worker.supervisor.sources.answer import write_answer
from worker.supervisor.sources.arriving import Arriving
from worker.supervisor.sources.network import confine


def main(answer: str, pipe: str, *arguments: str) -> None:
    die_with(LIFELINE)
    url, into, max_bytes, allowed, name = arguments
    secret = take(pipe)

    def fetch() -> JsonDict:
        with Arriving(Path(into), int(max_bytes)) as arriving:
            return _fetch(url, arriving, secret, allowed=allowed, name=name)

    message = "files may not be fetched from the address of this source (see PERMAFROST_FETCH_ALLOW)"
    write_answer(answer, fetch, address_refused=(message, "source_address_refused"), later="source_unavailable")


def _fetch(url: str, arriving: Arriving, secret: dict[str, str] | None, *, allowed: str, name: str) -> JsonDict:
    """The file's name, and the source as it was resolved."""
    filename = filename_of(url)
    if scheme_of(url) == "hf":  # at the operator's own choice of a hub
        wanted = hub_data(url)
        suffix, commit = hub.fetch(wanted, arriving, token=(secret or {}).get("token"), name=name)
        filename = filename if PurePosixPath(filename).suffix else filename + suffix
        return {"filename": filename, "source": _pinned(url, wanted.repository, commit)}

    reach = Reach.parse(allowed)
    confine(reach)
    if scheme_of(url) == "s3":
        object_store.fetch(store_object(url), arriving, keys=secret, name=name)
    else:
        web.fetch(url, arriving, reach=reach)
    return {"filename": filename, "source": url}


def _pinned(url: str, repository: str, commit: str) -> str:
    before, _, after = url.partition(repository)
    rest = after[after.index("?") :] if "?" in after else ""
    path = after.partition("?")[0]
    path = "/" + path.partition("/")[2] if "/" in path else ""
    return f"{before}{repository}@{commit}{path}{rest}"


if __name__ == "__main__":
    main(*sys.argv[1:])
