"""Sends a result to a hub's repository: weights, model card and attestation in one commit."""

from pathlib import Path

from app.errors import ModelError
from app.exports.destinations import Destination
from app.jsontypes import JsonDict
from worker.supervisor.hub import refuse_unusable
from worker.supervisor.sources.arriving import Later, SourceRefused

_LATER = (408, 425, 429, 500, 502, 503, 504)


def send(destination: Destination, result: Path, *, job: str, token: str | None, name: str) -> JsonDict:
    """A repository that is not there is made, private. Sending again changes nothing. Raises SourceRefused or Later."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    repository = destination.place
    if token is None:
        owner = repository.partition("/")[0]
        command = f"`permafrost secrets set NAME --kind hub --scope {owner}`"
        message = f"a hub takes results from nobody; {command} gives this project a token"
        raise SourceRefused(message, code="secret_missing")
    try:
        refuse_unusable(token, name)
        api = HfApi(token=token)
        api.create_repo(repository, exist_ok=True, private=True)
        message = f"Permafrost job {job}"
        commit = api.upload_folder(repo_id=repository, folder_path=result, commit_message=message)
    except ModelError as error:
        raise SourceRefused(error.message, code=str(error.code)) from None
    except (hub.HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise _failure(repository, name, error) from None
    return {"url": str(commit.repo_url), "commit": commit.oid}


def _failure(repository: str, name: str, error: Exception) -> Exception:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404):
        message = f"{repository} may not be written to with this project's secret {name!r}: {first[:200]}"
        return SourceRefused(message, code="secret_refused")
    message = f"{repository} could not be sent to the hub: {first[:300]}"
    if isinstance(error, ValueError) or (status is not None and status not in _LATER):
        return SourceRefused(message, code="destination_refused")
    return Later(message)
