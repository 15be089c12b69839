"""Fetches a split or a file of a data set on a hub, at one commit, as one file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from app.errors import ModelError
from app.evidence.format.digest import sha256_file
from app.files.references import HubData
from worker.supervisor.hub import git_blob, refuse_unusable
from worker.supervisor.sources.arriving import Arriving, Later, SourceRefused
from worker.supervisor.sources.joining import SUFFIXES, join

_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")
_LATER: Final = (408, 425, 429, 500, 502, 503, 504)


def fetch(wanted: HubData, arriving: Arriving, *, token: str | None, name: str) -> tuple[str, str]:
    """Writes the file. Returns its suffix and the commit. Without the token first. Raises SourceRefused or Later."""
    try:
        return _fetch(wanted, arriving, token=False)
    except SourceRefused as error:
        if error.code not in ("source_not_found", "hub_data_gated"):
            raise
        if token is None:
            owner = wanted.repository.partition("/")[0]
            command = f"`permafrost secrets set NAME --kind hub --scope {owner}`"
            message = f"{error}; where a token opens it, {command} gives this project one"
            raise SourceRefused(message, code=error.code) from None
    _refuse_unusable(token, name)
    try:
        return _fetch(wanted, arriving, token=token)
    except SourceRefused as error:
        message = f"{error} (asked with this project's secret {name!r})"
        raise SourceRefused(message, code=error.code) from None


def _fetch(wanted: HubData, arriving: Arriving, *, token: str | bool) -> tuple[str, str]:
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as hub

    repository, folder = wanted.repository, arriving.path.parent / "hub"
    try:
        info = HfApi(token=token).dataset_info(repository, revision=wanted.revision, files_metadata=True)
        commit = str(info.sha)
        siblings = {each.rfilename: each for each in info.siblings or ()}
        names = [wanted.path] if wanted.path else files_of(sorted(siblings), wanted)
        if wanted.path and wanted.path not in siblings:
            message = f"{repository} has no file {wanted.path!r}{_some(sorted(siblings))}"
            raise SourceRefused(message, code="source_not_found")
        arriving.refuse_large(sum(int(siblings[name].size or 0) for name in names))
        for name in names:
            hf_hub_download(
                repository, name, repo_type="dataset", revision=commit, local_dir=folder / commit, token=token
            )
    except hub.GatedRepoError:
        raise SourceRefused(f"the data set {repository} is gated", code="hub_data_gated") from None
    except hub.RevisionNotFoundError:
        raise SourceRefused(
            f"{repository} has no revision {wanted.revision!r}", code="source_revision_not_found"
        ) from None
    except hub.RepositoryNotFoundError:
        raise SourceRefused(f"the hub has no public data set {repository!r}", code="source_not_found") from None
    except (hub.HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise _failure(repository, error) from None

    paths = [folder / commit / name for name in names]
    for name, path in zip(names, paths, strict=True):
        _refuse_other_bytes(repository, name, path, siblings[name])
    return join(paths, arriving), commit


def files_of(names: Sequence[str], wanted: HubData) -> list[str]:
    """The files of a split, in the order of their names: `data/train-00000-of-00002.parquet`, `train.jsonl`, …

    Raises SourceRefused where none or files of several configurations or formats fit, with what there is.
    """
    data = [name for name in names if PurePosixPath(name).suffix in SUFFIXES and not name.startswith(".")]
    if wanted.config is not None:
        data = [name for name in data if wanted.config in re.split(r"[/._-]", name) or f"{wanted.config}/" in name]
    split = re.compile(rf"(?:^|[/._-]){re.escape(str(wanted.split))}(?:[/._-]|$)")
    found = [name for name in data if split.search(name)]
    if not found and wanted.split == "train" and len(data) == 1:
        found = data
    if not found:
        message = f"{wanted.repository} has no data file of the split {wanted.split!r}{_some(data)}"
        raise SourceRefused(message, code="source_not_found")

    suffixes = {PurePosixPath(name).suffix for name in found}
    folders = {str(PurePosixPath(name).parent) for name in found}
    if len(suffixes) > 1 or len(folders) > 1:
        message = f"several sets of files are the split {wanted.split!r} of {wanted.repository}{_some(found)}"
        raise SourceRefused(f"{message}; name one by ?config=…, or a file by its path", code="source_ambiguous")
    _refuse_missing_shards(wanted, found)
    return found


def _refuse_missing_shards(wanted: HubData, found: Sequence[str]) -> None:
    shards = [match for name in found if (match := _SHARD.search(name))]
    if shards and ({int(each[2]) for each in shards} != {len(found)} or len(shards) != len(found)):
        message = f"the split {wanted.split!r} of {wanted.repository} is not whole, or is there twice{_some(found)}"
        raise SourceRefused(message, code="source_ambiguous")


def _refuse_other_bytes(repository: str, name: str, path: Path, sibling: Any) -> None:
    lfs: Mapping[str, Any] | None = sibling.lfs
    if not (sha256_file(path) == lfs["sha256"] if lfs else sibling.blob_id in (None, git_blob(path))):
        path.unlink()
        raise SourceRefused(
            f"{repository}: the hub sent other bytes of {name} than it announces", code="hub_wrong_bytes"
        )


def _refuse_unusable(token: str, name: str) -> None:
    try:
        refuse_unusable(token, name)
    except ModelError as error:
        raise SourceRefused(error.message, code=str(error.code)) from None


def _failure(repository: str, error: Exception) -> Exception:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    message = f"{repository} could not be fetched from the hub: {first[:300]}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, ValueError) or (status is not None and status not in _LATER):
        return SourceRefused(message, code="hub_unreachable")
    return Later(message)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"; it has {', '.join(names[:8])}{more}" if names else "; it has no data files"
