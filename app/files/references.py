"""Training files by reference: `hf://owner/name?split=train`, `s3://bucket/key`, `https://host/path`.

A reference becomes a file of the project whose bytes a worker fetches before the first job that needs them trains.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from app.errors import InvalidRequest
from app.webhooks.addresses import AddressRefused, Reach, parse_url

Scheme = Literal["hf", "s3", "https", "http"]
MAX_CHARACTERS: Final = 2048
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB: Final = re.compile(rf"(?:datasets/)?({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._-]{{0,127}}))?(?:/(.+))?")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, slots=True)
class HubData:
    """Files of a data set on a hub: those of a split, or one by its path."""

    repository: str
    revision: str | None
    path: str | None
    split: str | None
    config: str | None


@dataclass(frozen=True, slots=True)
class StoreObject:
    """An object of a store."""

    bucket: str
    key: str


def is_reference(value: str) -> bool:
    """Whether the value is a URL, and so not the id of a file."""
    return "://" in value


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()


def check(url: str, *, param: str, reach: Reach) -> None:
    """Raises InvalidRequest for a reference that is refused without a look-up. A connection is checked again."""
    if len(url) > MAX_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        message = f"a reference has at most {MAX_CHARACTERS} printable ASCII characters; write others as %-escapes"
        raise _invalid(message, param)
    match scheme_of(url):
        case "hf":
            hub_data(url, param=param)
        case "s3":
            store_object(url, param=param)
        case "https" | "http":
            _check_web(url, param=param, reach=reach)
        case other:
            message = f"{other}:// is not fetched from; write hf://owner/name?split=train, s3://bucket/key or https://…"
            raise _invalid(message, param)


def hub_data(url: str, *, param: str = "training_file") -> HubData:
    """The parts of `hf://[datasets/]owner/name[@revision][/path][?split=…&config=…]`."""
    parts = urlsplit(url)
    found = _HUB.fullmatch(unquote(parts.netloc + parts.path).strip("/"))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if found is None or ".." in (found[3] or "").split("/"):
        raise _invalid("write hf://owner/name@revision?split=train, or hf://owner/name@revision/path/file.jsonl", param)
    for name, value in options.items():
        if name not in ("split", "config"):
            raise _invalid(f"a data set of a hub has `split` and `config`, not {name!r}", param)
        if not _WORD.fullmatch(value):
            raise _invalid(f"{name}: {value!r} is no name of a {name}", param)
    if (found[3] is None) == ("split" not in options):
        raise _invalid("a data set of a hub needs either a path or `?split=…`, such as ?split=train", param)
    return HubData(found[1], found[2], found[3], options.get("split"), options.get("config"))


def store_object(url: str, *, param: str = "training_file") -> StoreObject:
    """The parts of `s3://bucket/key`."""
    bucket, _, key = url.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket) or not key or key.endswith("/"):
        raise _invalid("write s3://bucket/key, with the key of one object", param)
    return StoreObject(bucket, key)


def filename_of(url: str) -> str:
    """A name for the file, as far as the reference shows one; its suffix says the format."""
    parts = urlsplit(url)
    name = PurePosixPath(unquote(parts.path)).name
    if scheme_of(url) == "hf":
        data = hub_data(url)
        name = PurePosixPath(data.path).name if data.path else f"{data.repository.partition('/')[2]}-{data.split}"
    return (name or parts.netloc)[-255:]


def shown(url: str) -> str:
    """The reference as answers have it: what follows `?` in a web address may be a signature that opens it."""
    return url.partition("?")[0] + "?…" if scheme_of(url) in ("http", "https") and "?" in url else url


def _check_web(url: str, *, param: str, reach: Reach) -> None:
    try:
        target = parse_url(url, param=param)
    except InvalidRequest as error:
        raise _invalid(error.message, param) from None
    if not target.secure and not reach.allowed:
        message = "files are fetched by https://; http:// works only for networks in PERMAFROST_FETCH_ALLOW"
        raise _invalid(message, param)
    try:
        reach.check(target.host, secure=target.secure)
    except ValueError:
        return  # a host name
    except AddressRefused:
        message = f"files may not be fetched from the address {target.host} (see PERMAFROST_FETCH_ALLOW)"
        raise _invalid(message, param) from None


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {message}", param=param, code="invalid_reference")
