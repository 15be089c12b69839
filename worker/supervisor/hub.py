"""Fetches base models from a hub, by id and revision, in a process that has none of the worker's secrets.

`python -P -s -m worker.supervisor.hub` is that process. It uses huggingface_hub as it is; its endpoint, proxies and
offline switch are the worker's. Only weights in safetensors, configurations and tokenizers are taken, from the top
folder. A project's token is sent only where the hub gives nothing without one.
"""

import glob
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.errors import ModelError
from app.evidence.format.digest import sha256_file
from app.evidence.format.modules import is_module_file
from app.evidence.format.templates import is_template_file
from app.jsontypes import JsonDict
from app.models.papers import is_paper
from app.secrets.kinds import OpenedSecret
from worker.supervisor.process.fetcher import Fetcher, take
from worker.supervisor.process.tied import LIFELINE, die_with

#: Variables of the worker that say how to reach a hub; they pass to the fetcher, beside those of any network.
REACH: Final = ("HF_ENDPOINT", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
#: A worker's own token would show its owner's private models to every project.
NO_TOKEN: Final = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_XET": "1"}
ONLINE: Final = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
#: A commit of many files takes its time.
ANSWER_SECONDS: Final = 120.0
CONNECT_SECONDS: Final = 15.0
SUFFIXES: Final = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHARD: Final = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_ON: Final = ("1", "ON", "YES", "TRUE")
#: Codes of what a hub may give to somebody who shows a token.
_CLOSED: Final = ("hub_model_gated", "model_not_found")
_LATER: Final = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The commit that was fetched, and whether it took the project's token: then it is for this project alone."""

    commit: str
    private: bool


def is_commit(revision: str) -> bool:
    return _COMMIT.fullmatch(revision) is not None


def scopes(repository: str) -> tuple[str, str]:
    """The scopes of secrets for a repository, the narrowest first."""
    return repository, repository.partition("/")[0]


def hub_environment() -> dict[str, str]:
    """What a process that talks to a hub gets of the worker's environment."""
    return ONLINE | NO_TOKEN | {name: os.environ[name] for name in REACH if name in os.environ}


def refuse_offline(what: str, remedy: str) -> None:
    """ModelError where this worker may not use a hub."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON:
        message = f"{what} has not been fetched yet, and this worker is offline (HF_HUB_OFFLINE)"
        raise ModelError(f"{message}: unset that, or {remedy}", param="model.path", code="hub_offline")


def fetch(
    repository: str,
    revision: str,
    into: Path,
    *,
    max_bytes: int,
    stop: Callable[[], bool],
    secret: OpenedSecret | None = None,
) -> Fetched | None:
    """Download the model's files into the folder `into`; what an earlier try left there is gone on with.

    Returns None if `stop` became true first. Raises ModelError: offline, unknown, gated, too large, without weights in
    safetensors, other bytes than the hub announces, or a token that it does not take; SourceUnavailable where a later
    try may succeed.
    """
    remedy = (
        "put the model's folder under PERMAFROST_MODELS_DIR; a model once fetched is found offline by its "
        "full commit hash"
    )
    refuse_offline(f"{repository} at {revision}", remedy)
    into.mkdir(parents=True, exist_ok=True)
    fetcher = Fetcher(
        "worker.supervisor.hub",
        home=into.parent,
        refusal=ModelError,
        param="model.path",
        environment=hub_environment(),
    )
    arguments = [repository, revision, str(into), str(max_bytes), secret.name if secret else ""]
    answer = fetcher.run(
        arguments, answer=into.with_suffix(".json"), secret=secret.fields if secret else None, stop=stop
    )
    return Fetched(answer["commit"], answer["private"]) if answer is not None else None


# ---- the process


class _Later(Exception):
    """The hub does not answer, or not now."""


def main(answer: str, pipe: str, *arguments: str) -> None:
    die_with(LIFELINE)
    repository, revision, into, max_bytes, *name = arguments
    wanted = _Wanted(repository, revision, Path(into), int(max_bytes))
    try:
        result: Mapping[str, Any] = _download(wanted, take(pipe), "".join(name))
    except ModelError as error:
        result = {"error": error.message, "param": error.param, "code": error.code}
    except _Later as error:
        result = {"error": str(error), "param": "model.path", "code": "hub_unreachable", "again": True}
    Path(answer).write_text(json.dumps(result))


@dataclass(frozen=True, slots=True)
class _Wanted:
    repository: str
    revision: str
    into: Path
    max_bytes: int


def _download(wanted: _Wanted, secret: Mapping[str, str] | None, name: str) -> JsonDict:
    """Without a token where that works: what everybody may have is shared by all projects."""
    try:
        return {"commit": _snapshot(wanted, token=False), "private": False}
    except ModelError as error:
        if error.code not in _CLOSED or error.param != "model.path":
            raise
        if secret is None:
            command = f"`permafrost secrets set NAME --kind hub --scope {scopes(wanted.repository)[1]}`"
            message = f"{error.message}; where a token opens it, {command} gives this project one"
            raise _refusal(message, str(error.code)) from None

    refuse_unusable(secret["token"], name)
    try:
        return {"commit": _snapshot(wanted, token=secret["token"]), "private": True}
    except ModelError as error:
        if error.code not in _CLOSED:
            raise
        message = f"{error.message} with this project's secret {name!r}: its account has no access; accept the model's "
        raise _refusal(f"{message}terms with that account, or set another token", str(error.code)) from None


def limit_waits() -> None:
    """Gives huggingface_hub's client a limit for each answer: by itself it waits for most of them without an end."""
    import httpx2
    from huggingface_hub import get_session

    get_session().timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)


def refuse_unusable(token: str, name: str) -> None:
    """ModelError where the hub does not know the token; a hub without that question is not asked further."""
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    limit_waits()
    try:
        HfApi(token=token).whoami()
    except hub.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            message = f"the hub refuses this project's secret {name!r}: its token is wrong, expired or revoked"
            raise _refusal(f"{message}; set it again (`permafrost secrets set {name}`)", "secret_refused") from None
    except (OSError, ValueError):
        return  # what is asked next says what is wrong


def _snapshot(wanted: _Wanted, *, token: str | bool) -> str:
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    limit_waits()
    repository, into = wanted.repository, wanted.into
    try:
        info = HfApi(token=token).model_info(repository, revision=wanted.revision, files_metadata=True)
        commit = str(info.sha)
        siblings = {each.rfilename: each for each in info.siblings or ()}
        names = chosen(siblings)
        _refuse_large(repository, sum(int(siblings[name].size or 0) for name in names), wanted.max_bytes)
        patterns = [glob.escape(name) for name in names]
        snapshot_download(repository, revision=commit, local_dir=into, allow_patterns=patterns, token=token)
    except hub.GatedRepoError:
        raise _refusal(f"{repository} is gated", "hub_model_gated") from None
    except hub.RevisionNotFoundError:
        message = f"{repository} has no revision {wanted.revision!r}"
        raise ModelError(message, param="model.revision", code="model_not_found") from None
    except hub.RepositoryNotFoundError:
        raise _refusal(f"the hub has no public model {repository!r}", "model_not_found") from None
    except (hub.HfHubHTTPError, hub.OfflineModeIsEnabled, httpx2.HTTPError, OSError, ValueError) as error:
        raise _failure(repository, error) from None
    if missing := [name for name in names if not (into / name).is_file()]:
        raise _Later(f"{repository}: the hub did not send {', '.join(missing)}")
    _refuse_other_bytes(repository, into, {name: siblings[name] for name in names})
    return commit


def _failure(repository: str, error: Exception) -> Exception:
    """What an error of the client means: what may succeed later, or what will not."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    message = f"{repository} could not be fetched from the hub: {first[:300]}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, ValueError) or (status is not None and status not in _LATER):
        return _refusal(message, "hub_unreachable")
    return _Later(message)


def _refuse_other_bytes(repository: str, into: Path, announced: Mapping[str, Any]) -> None:
    """ModelError for a file that is not what the hub's own list of this commit says; it is fetched anew next time."""
    for name, sibling in announced.items():
        path, lfs = into / name, sibling.lfs
        if not (sha256_file(path) == lfs["sha256"] if lfs else sibling.blob_id in (None, git_blob(path))):
            path.unlink()
            message = f"{repository}: the hub sent other bytes of {name} than it announces for this commit"
            raise _refusal(message, "hub_wrong_bytes")


def git_blob(path: Path) -> str:
    """The name that git gives a file's bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def chosen(names: Iterable[str]) -> list[str]:
    """The files of a repository that are fetched: one set of weights, the small files beside it, and its modules'.

    For example, of `model.safetensors`, `model.fp16.safetensors`, `config.json`, `onnx/model.onnx` and
    `1_Pooling/config.json` the first, the third and the last.
    """
    names = list(names)
    top = sorted(name for name in names if "/" not in name and "\\" not in name and not name.startswith("."))
    weights = [name for name in top if name == "model.safetensors"]
    weights = weights or [name for name in top if _SHARD.fullmatch(name)]
    if not weights:
        others = [name for name in top if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))]
        there = f"; it has {', '.join(others[:3])}, and such formats are not read" if others else ""
        raise ModelError(
            f"the model has no model.safetensors, whole or in shards{there}", param="model.path", code="invalid_model"
        )
    rest = [name for name in top if (name.endswith(SUFFIXES) or is_paper(name)) and not name.startswith("adapter_")]
    index = "model.safetensors.index.json"
    inside = sorted(name for name in names if is_module_file(name) or is_template_file(name))
    return [*weights, *(name for name in rest if name != index or weights != ["model.safetensors"]), *inside]


def _refuse_large(repository: str, size: int, most: int) -> None:
    if size > most:
        message = f"{repository} takes {size:,} bytes, and this worker fetches {most:,} at most"
        raise _refusal(f"{message} (PERMAFROST_MAX_HUB_BYTES)", "model_too_large")


def _refusal(message: str, code: str) -> ModelError:
    return ModelError(message, param="model.path", code=code)


if __name__ == "__main__":
    main(*sys.argv[1:])
