"""Talks to a running service for the other commands; its refusals become sentences with the command that helps."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import httpx2
import typer

from app.jsontypes import JsonDict
from app.settings import Settings

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="PERMAFROST_SERVER",
        help="Base URL of the service; default: PERMAFROST_HOST and PERMAFROST_PORT.",
    ),
]
#: Of the lists of the API.
_PAGE: Final = 100

#: The command that helps after a refusal, by its code or else by what its `param` names.
_NEXT: Final = {
    "model_not_found": "to see the models: permafrost models list",
    "model_not_described": "to have its tensors read once, submit a job on it, or POST /v1/models",
    "invalid_freeze_policy": "to see what a policy selects: permafrost preview --model MODEL --policy POLICY",
    "insufficient_quota": "to see what is queued or running: permafrost jobs --status queued --status running",
    "invalid_api_key": "this command reads the API key from PERMAFROST_API_KEY; to make one: permafrost keys create",
    "model_in_use": "to see the models: permafrost models list",
}
_NEXT_BY_PARAM: Final = {
    "fine_tuning_job_id": "to see the jobs: permafrost jobs",
    "training_file": "to see the files: permafrost files list",
    "file_id": "to see the files: permafrost files list",
    "model": "to see the models: permafrost models list",
}


class RequestRefused(SystemExit):
    """The end of a command whose request the service refused, with its message and the command that helps."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.of_this_request = status in (400, 404, 409, 413, 422)  # others may be taken: no key, quota or fault


def connect(server: str) -> httpx2.Client:
    """A client of the service, with the key from the environment. BadParameter for an address that is no URL."""
    settings = Settings()
    base = (server or f"http://{settings.host}:{settings.port}").rstrip("/").removesuffix("/v1")
    if not base.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{server!r} is not a URL such as http://127.0.0.1:8000", param_hint="--server")
    key = os.environ.get("PERMAFROST_API_KEY")
    return httpx2.Client(base_url=f"{base}/v1/", headers={"authorization": f"Bearer {key}"} if key else {}, timeout=30)


def ask(client: httpx2.Client, method: str, path: str, **content: Any) -> JsonDict:
    """The service's answer. SystemExit with its message where it refuses or is away."""
    try:
        return checked(client.request(method, path, **content))
    except httpx2.TransportError as error:
        raise away(client, error) from None


def away(client: httpx2.Client, error: Exception) -> SystemExit:
    """The end of a command whose service does not answer."""
    where = str(client.base_url).removesuffix("/v1/")
    hint = "is `permafrost serve` running there? --server or PERMAFROST_SERVER sets another address"
    return SystemExit(f"{where} does not answer ({error}); {hint}")


def checked(answer: httpx2.Response) -> JsonDict:
    """The body of an answer. RequestRefused with the service's message, each problem and the command that helps."""
    if answer.is_success:
        body: JsonDict = answer.json()
        return body
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        raise SystemExit(f"{answer.url} answered {answer.status_code}, and it is not a Permafrost service") from None
    for line in problem_lines(error):
        print(line, file=sys.stderr)
    raise RequestRefused("\n".join(filter(None, (error["message"], next_step(error)))), answer.status_code)


def next_step(error: Mapping[str, Any]) -> str | None:
    """What to do after a refusal, as a command where there is one."""
    param = str(error.get("param") or "").partition(".")[0]
    return _NEXT.get(error.get("code") or "") or _NEXT_BY_PARAM.get(param)


def problem_lines(error: Mapping[str, Any]) -> list[str]:
    """One line per problem; empty when the error's message contains the only problem already."""
    problems = error.get("errors", [])
    if len(problems) == 1 and problems[0]["message"] in error["message"]:
        return []
    return [
        f"  line {item['line']}: {item['message']}" if item.get("line") else f"  {item['message']}" for item in problems
    ]


def listed(
    client: httpx2.Client, path: str, *, limit: int | None, query: Sequence[tuple[str, str]] = ()
) -> Iterator[JsonDict]:
    """The objects of a list, page by page, up to `limit`; None: all of them."""
    after: list[tuple[str, str]] = []
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _PAGE)
        page = ask(client, "GET", path, params=[*query, ("limit", str(size)), *after])
        yield from page["data"]
        if not page["has_more"]:
            return
        left = None if left is None else left - len(page["data"])
        after = [("after", page["last_id"])]
