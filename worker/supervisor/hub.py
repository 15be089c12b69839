"""Fetches base models from a hub, by id and revision, in a process that has none of the worker's secrets.

`python -P -s -m worker.supervisor.hub` is that process. It uses huggingface_hub as it is; its endpoint, proxies and
offline switch are the worker's. Only weights in safetensors, configurations and tokenizers are taken, from the top
folder.
"""

import glob
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from app.errors import ModelError
from app.evidence.format.modules import is_module_file
from app.evidence.format.templates import is_template_file
from app.models.papers import is_paper
from worker.supervisor.process.environment import cleaned
from worker.supervisor.process.tied import LIFELINE, die_with, start_tied

#: Variables of the worker that say how to reach a hub; they pass to the fetcher.
REACH: Final = (
    "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
#: Only public models are fetched: a worker's token would show its owner's private models to every project.
NO_TOKEN: Final = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_XET": "1"}
SUFFIXES: Final = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_LOOK_SECONDS: Final = 0.1
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHARD: Final = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_ON: Final = ("1", "ON", "YES", "TRUE")


def model_id(repository: str, commit: str) -> str:
    """The id of a model from a hub; the commit in it fixes its bytes."""
    return f"{repository}@{commit}"


def is_commit(revision: str) -> bool:
    return _COMMIT.fullmatch(revision) is not None


def fetch(repository: str, revision: str, into: Path, *, max_bytes: int, stop: Callable[[], bool]) -> str | None:
    """Download the model's files into the folder `into`. Returns the commit; None if `stop` became true first.

    Raises ModelError: offline, unknown, gated, too large, or without weights in safetensors.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON:
        raise ModelError(
            f"{repository} at {revision} has not been fetched yet, and this worker is offline (HF_HUB_OFFLINE): unset "
            "that, or put the model's folder under PERMAFROST_MODELS_DIR; a model once fetched is found offline by its "
            "full commit hash",
            param="model.path",
            code="hub_offline",
        )
    into.mkdir(parents=True, exist_ok=True)
    answer = into.with_suffix(".json")
    arguments = [repository, revision, str(into), str(answer), str(max_bytes)]
    environment = cleaned(home=into.parent) | {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"} | NO_TOKEN
    environment |= {name: os.environ[name] for name in REACH if name in os.environ}
    process, lifeline = start_tied(
        "worker.supervisor.hub",
        arguments,
        home=into.parent,
        environment=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        return _answer(process, answer, repository, stop)
    finally:
        os.close(lifeline)


def _answer(process: "subprocess.Popen[bytes]", answer: Path, repository: str, stop: Callable[[], bool]) -> str | None:
    with process:
        try:
            while process.poll() is None:
                if stop():
                    return None
                time.sleep(_LOOK_SECONDS)
        finally:
            process.kill()
        assert process.stderr is not None
        last = process.stderr.read()[-500:].decode("utf-8", "replace").strip()
    if not answer.is_file():
        raise ModelError(f"{repository} could not be fetched: {last or process.returncode}", param="model.path")
    result = json.loads(answer.read_text())
    if "error" in result:
        raise ModelError(result["error"], param=result["param"], code=result["code"])
    return str(result["commit"])


# ---- the process


def main(repository: str, revision: str, into: str, answer: str, max_bytes: str) -> None:
    die_with(LIFELINE)
    try:
        result: Mapping[str, Any] = {"commit": _download(repository, revision, Path(into), int(max_bytes))}
    except ModelError as error:
        result = {"error": error.message, "param": error.param, "code": error.code}
    Path(answer).write_text(json.dumps(result))


def _download(repository: str, revision: str, into: Path, max_bytes: int) -> str:
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    try:
        info = HfApi(token=False).model_info(repository, revision=revision, files_metadata=True)
        commit = str(info.sha)
        sizes = {each.rfilename: int(each.size or 0) for each in info.siblings or ()}
        names = chosen(sizes)
        _refuse_large(repository, sum(sizes[name] for name in names), max_bytes)
        patterns = [glob.escape(name) for name in names]
        snapshot_download(repository, revision=commit, local_dir=into, allow_patterns=patterns, token=False)
    except hub.GatedRepoError:
        raise _refusal(f"{repository} is gated, and no token is used", "hub_model_gated") from None
    except hub.RevisionNotFoundError:
        message = f"{repository} has no revision {revision!r}"
        raise ModelError(message, param="model.revision", code="model_not_found") from None
    except hub.RepositoryNotFoundError:
        message = f"the hub has no public model {repository!r}"
        raise ModelError(message, param="model.path", code="model_not_found") from None
    except (hub.HfHubHTTPError, hub.OfflineModeIsEnabled, httpx2.HTTPError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _refusal(f"{repository} could not be fetched from the hub: {first[:300]}", "hub_unreachable") from None
    if missing := [name for name in names if not (into / name).is_file()]:
        raise _refusal(f"{repository}: the hub did not send {', '.join(missing)}", "hub_unreachable")
    return commit


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
