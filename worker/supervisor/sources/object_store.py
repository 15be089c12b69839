"""Fetches an object from a store that speaks S3, with the project's keys or without any; a cut download goes on."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.files.references import StoreObject
from app.storage.s3 import session
from app.webhooks.addresses import AddressRefused
from worker.supervisor.sources.arriving import Arriving, Later, SourceRefused

CHUNK: Final = 4 << 20
#: Of a request, and seconds that each waits for an answer: a store that hangs holds others up for minutes, not hours.
ATTEMPTS: Final = 3
CONNECT_SECONDS: Final = 15
READ_SECONDS: Final = 60
#: Seconds before each further try of a connection that was cut off.
PAUSES: Final = (1.0, 5.0)


def fetch(wanted: StoreObject, arriving: Arriving, *, keys: Mapping[str, str] | None, name: str) -> None:
    """The object's bytes, all of one version. `name` is that of the secret. Raises SourceRefused or Later."""
    path = f"{wanted.bucket}/{wanted.key}"
    files = store(keys)
    with explained(path, keys=keys, name=name):
        before = files.info(path)
    size, version = int(before["size"] or 0), str(before.get("ETag") or "")
    arriving.refuse_large(size)

    for pause in (*PAUSES, None):
        have = arriving.begin(version or None)
        try:
            with explained(path, keys=keys, name=name):
                for data in _stream(files, wanted, version, have) if have < size else ():
                    arriving.write(data)
            break
        except Later:
            if pause is None:
                raise
            time.sleep(pause)
    if arriving.size != size:
        raise Later(f"s3://{path} sent {arriving.size:,} of {size:,} bytes")

    with explained(path, keys=keys, name=name):
        after = files.info(path, refresh=True)
    if str(after.get("ETag") or "") != version:
        arriving.forget()
        raise Later(f"s3://{path} changed while it was fetched")


def _stream(files: Any, wanted: StoreObject, version: str, have: int) -> Iterator[bytes]:
    """The bytes of this version from `have` on, in one request: a range costs some stores as much as the object."""
    from fsspec.asyn import sync

    same = {"IfMatch": version} if version else {}
    answer = files.call_s3("get_object", Bucket=wanted.bucket, Key=wanted.key, Range=f"bytes={have}-", **same)
    body = answer["Body"]
    try:
        while data := sync(files.loop, body.read, CHUNK):
            yield data
    finally:
        body.close()


def store(keys: Mapping[str, str] | None) -> Any:
    """A client of the store that the keys are for; without keys, of what AWS gives to everybody."""
    from s3fs import S3FileSystem

    keys = keys or {}
    region = {"region_name": keys["region"]} if "region" in keys else {}
    retries = {"total_max_attempts": ATTEMPTS}
    waits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    files = S3FileSystem(
        anon=not keys,
        key=keys.get("access_key_id"),
        secret=keys.get("secret_access_key"),
        token=keys.get("session_token"),
        endpoint_url=keys.get("endpoint_url"),
        client_kwargs=region,
        cache_regions=not region and "endpoint_url" not in keys,
        config_kwargs={"retries": retries, **waits, "proxies": {}},
        use_listings_cache=False,
        skip_instance_cache=True,
        session=session(),
    )
    files.retries = 1  # beside those of the client below it: a store that hangs would be waited for five times as long
    return files


class explained:  # noqa: N801 - reads as a word where it is used
    """Turns errors of the store's client into SourceRefused or Later, in words without the keys."""

    def __init__(self, path: str, *, keys: Mapping[str, str] | None, name: str) -> None:
        self._path, self._keys, self._name = path, keys, name

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if error is None or isinstance(error, SourceRefused | Later) or not isinstance(error, Exception):
            return
        bucket = self._path.partition("/")[0]
        if _refused_address(error):
            raise AddressRefused from None
        if isinstance(error, FileExistsError):  # the store's PreconditionFailed
            raise Later(f"s3://{self._path} changed while it was fetched") from None
        if isinstance(error, FileNotFoundError):
            raise SourceRefused(f"s3://{self._path} does not exist", code="source_not_found") from None
        if isinstance(error, PermissionError) and self._keys:
            message = (
                f"s3://{bucket} refuses this project's secret {self._name!r}: its keys are wrong, expired, revoked, or "
                f"may not do this; set it again (`permafrost secrets set {self._name} --kind s3`)"
            )
            raise SourceRefused(message, code="secret_refused") from None
        if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
            command = f"permafrost secrets set NAME --kind s3 --scope {bucket}"
            message = f"s3://{bucket} is not public, and this project has no secret for it: `{command}`"
            raise SourceRefused(message, code="source_refused") from None
        if isinstance(error, ValueError):
            raise SourceRefused(
                f"s3://{self._path} cannot be requested: {_first(error)}", code="source_refused"
            ) from None
        raise Later(f"s3://{bucket} cannot be used: {_first(error)}") from None


def _refused_address(error: BaseException | None) -> bool:
    """Whether the client wrapped our own refusal of an address, somewhere below."""
    while error is not None:
        if isinstance(error, AddressRefused):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
