"""Where results go: `hf://owner/name`, `s3://bucket/prefix`, or a tracking server such as `mlflow://host/experiment`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from app.errors import InvalidRequest
from app.secrets.kinds import SecretKind
from app.webhooks.addresses import AddressRefused, Reach

MAX_CHARACTERS: Final = 512
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB: Final = re.compile(rf"hf://({_NAME}/{_NAME})")
_STORE: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9._=+-]+)+)/?")
_WORDS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")
_OFFLINE: Final = re.compile(rf"wandb\+offline://({_NAME}/{_NAME})")
#: What the path of a tracking server's destination names.
_TRACKERS: Final[dict[SecretKind, re.Pattern[str]]] = {
    "mlflow": _WORDS,
    "trackio": re.compile(_NAME),
    "wandb": re.compile(rf"{_NAME}/{_NAME}"),
}
_EXAMPLES: Final = (
    "hf://owner/name, s3://bucket/prefix, mlflow://host/experiment?model=name, trackio://host/project, "
    "wandb://api.wandb.ai/entity/project or wandb+offline://entity/project"
)


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination, taken apart: its secret's kind and scopes, and what its exporter needs."""

    url: str
    kind: SecretKind
    scopes: tuple[str, ...]
    #: Of a hub: the repository. Of a store: the bucket. Of a tracking server: its base URL; "" for an offline run.
    place: str
    #: Of a store: the prefix. Of a tracking server: the experiment or project.
    path: str = ""
    #: Of MLflow: the registered model that gets a version.
    model: str | None = None

    @property
    def tracks(self) -> bool:
        """Whether it also takes jobs that failed: curves and verdict, without a result."""
        return self.kind in _TRACKERS

    @property
    def offline(self) -> bool:
        """Whether it is a folder of the worker, from which somebody else sends it on."""
        return not self.place


def parse(url: str, *, param: str) -> Destination:
    """A destination as a request names it. Raises InvalidRequest."""

    def invalid(message: str) -> InvalidRequest:
        return InvalidRequest(f"{param}: {message}", param=param, code="invalid_destination")

    if len(url) > MAX_CHARACTERS or not url.isascii() or not url.isprintable():
        raise invalid(f"a destination has at most {MAX_CHARACTERS} printable ASCII characters")
    if found := _HUB.fullmatch(url):
        return Destination(url, "hub", (found[1], found[1].partition("/")[0]), found[1])
    if found := _STORE.fullmatch(url):
        if ".." in found[2].split("/"):
            raise invalid("a prefix has no '..'")
        return Destination(url, "s3", (found[1],), found[1], found[2].strip("/"))
    if found := _OFFLINE.fullmatch(url):
        return Destination(url, "wandb", (), "", found[1])
    for kind in _TRACKERS:
        if url.startswith((f"{kind}://", f"{kind}+http://")):
            return _tracker(url, kind, invalid)
    raise invalid(f"{url!r} is no destination; write {_EXAMPLES}")


def check_address(destination: Destination, *, param: str, reach: Reach) -> None:
    """Raises InvalidRequest for a tracking server that is refused without a look-up."""
    if not destination.tracks or destination.offline:
        return
    parts = urlsplit(destination.place)
    secure = parts.scheme == "https"
    refused = not secure and not reach.allowed
    try:
        reach.check(str(parts.hostname), secure=secure)
    except ValueError:
        pass  # a host name
    except AddressRefused:
        refused = True
    if refused:
        message = f"results may not be sent to {parts.netloc} (see PERMAFROST_FETCH_ALLOW)"
        raise InvalidRequest(f"{param}: {message}", param=param, code="invalid_destination")


def _tracker(url: str, kind: SecretKind, invalid: Callable[[str], InvalidRequest]) -> Destination:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise invalid(str(error)) from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    path, model = unquote(parts.path).strip("/"), options.pop("model", None) if kind == "mlflow" else None
    if not parts.hostname or parts.username is not None or parts.fragment or options:
        raise invalid(f"write {_EXAMPLES}; a login belongs into a secret of the kind {kind}")
    if not _TRACKERS[kind].fullmatch(path) or (model is not None and not _WORDS.fullmatch(model)):
        raise invalid(f"the names in it have letters, digits and . _ - (MLflow's also spaces): {_EXAMPLES}")
    scheme = "http" if parts.scheme.endswith("+http") else "https"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = f"{host}:{port}" if port else host
    return Destination(url, kind, (authority, parts.hostname), f"{scheme}://{authority}", path, model)
