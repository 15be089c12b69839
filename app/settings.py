"""The PERMAFROST_* environment, in one class."""

import ipaddress
import json
import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self, cast

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Role = Literal["admin", "writer", "reader"]

PROJECT_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
#: Where containers find secrets as files: `permafrost_database_url` and so on.
SECRETS = Path("/run/secrets")


class Grant(NamedTuple):
    """What the members of a group of the sign-in provider may do, and in which project."""

    group: str
    project: str
    role: Role


class Settings(BaseSettings):
    """Every variable has an embedded default, so that `permafrost serve` needs no configuration."""

    model_config = SettingsConfigDict(
        env_prefix="PERMAFROST_", extra="ignore", secrets_dir=SECRETS if SECRETS.is_dir() else None
    )

    data_dir: Path = Path(".permafrost")
    database_url: str = ""
    broker_url: str = ""
    storage_url: str = ""
    models_dir: Path | None = None
    signing_key: Path | None = None
    #: A command that signs in the place of a key file; its public half is beside PERMAFROST_SIGNING_KEY (`.pub`).
    signer: str = ""
    #: An RFC 3161 time-stamping authority, which stamps the signature of each statement; none: the signer's clock.
    tsa_url: str = ""
    #: The key (Ed25519) that signs the transparency log's checkpoints, and the log's name in them.
    log_key: Path | None = None
    log_origin: str = ""
    #: Witnesses that workers ask to cosign checkpoints: a key (vkey) and a URL each, with commas between them.
    log_witnesses: str = ""
    auth: Literal["", "required", "off"] = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)

    #: The OpenID Connect provider by which people sign in to the pages, and how this service is registered there.
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret: SecretStr = SecretStr("")
    oidc_scopes: str = "openid profile email"
    #: The claim of a person that has the groups, and what their members may: `research=search:writer`, with commas
    #: between them, or a JSON object.
    oidc_groups_claim: str = "groups"
    oidc_groups: str = ""
    #: Seconds after which the provider is asked again about a person with a session.
    oidc_check_seconds: float = Field(default=900.0, ge=10, le=43200)
    #: Where browsers reach this service: the provider sends them back to it.
    public_url: str = ""

    #: Device slots of this worker: "auto" is every CUDA device, or one CPU slot where there are no CUDA devices.
    devices: str = "auto"
    #: Seconds a lease lives without a heartbeat, and between heartbeats.
    lease_seconds: float = Field(default=60.0, gt=0)
    heartbeat_seconds: float = Field(default=10.0, gt=0)
    sweep_seconds: float = Field(default=15.0, gt=0)
    #: Seconds that a trainer has to save its state after SIGTERM before the process group is killed.
    grace_seconds: float = Field(default=20.0, ge=0)
    #: Seconds of silence after which a trainer counts as hanging and is killed.
    stall_seconds: float = Field(default=1800.0, gt=0)
    max_crashes: int = Field(default=3, ge=1)
    max_upload_bytes: int = Field(default=8 * 2**30, ge=1)

    #: Hosts by which browsers may reach a service without keys, besides loopback; with commas between them.
    trusted_hosts: str = ""
    #: Other names of models, as pairs `gpt-4.1-mini*=minilm` with commas between them or as a JSON object. `*` in a
    #: name stands for any text; the first that fits is taken.
    model_aliases: str = ""
    #: How projects share devices: weights by project, such as `research=3,batch=0.5`; others, or `*`, have 1.
    project_weights: str = ""
    #: Devices that may run a project's jobs at once, such as `batch=4,*=16`; `*` is any other project.
    project_devices: str = ""
    #: Seconds of waiting that a point of a job's priority is worth, beside other jobs of its project.
    aging_seconds: float = Field(default=3600.0, ge=0, le=31_536_000)
    #: The address of a private network at which this worker meets others that train a job together; none: it does not.
    gang_address: str = ""
    #: How often a running job may have to make room for a waiting one of higher priority or of a project with less
    #: than its share; 0: never.
    preempt: int = Field(default=0, ge=0, le=1_000)
    #: Of every project: jobs that have not ended, and bytes of uploaded files.
    max_active_jobs: int = Field(default=10_000, ge=1)
    max_project_bytes: int = Field(default=2**40, ge=1)
    #: Of a model that a worker fetches from a hub.
    max_hub_bytes: int = Field(default=200 * 2**30, ge=1)

    #: Results of frozen layers that jobs of a project share on this worker: their folder, and bytes; 0 keeps none.
    prefix_cache_dir: Path | None = None
    prefix_cache_bytes: int = Field(default=16 * 2**30, ge=0)

    #: Days for which events, logs, points of curves and checkpoints are kept after the end of their job, and results of
    #: frozen layers after their last use; 0: for ever.
    keep_events_days: float = Field(default=0.0, ge=0, le=36_500)
    keep_logs_days: float = Field(default=0.0, ge=0, le=36_500)
    keep_points_days: float = Field(default=0.0, ge=0, le=36_500)
    keep_checkpoints_days: float = Field(default=0.0, ge=0, le=36_500)
    keep_prefixes_days: float = Field(default=0.0, ge=0, le=36_500)

    #: For dry runs: operations a second of a device, used when no earlier job shows how fast it is.
    device_flops: float = Field(default=2e10, gt=0)

    #: Networks beside the public ones from which files may be fetched, and to which results may be sent.
    fetch_allow: str = ""
    #: Where a worker writes offline runs of Weights & Biases: a folder for each project.
    offline_runs_dir: Path | None = None
    #: Networks beside the public ones to which webhooks may be sent, such as `10.0.0.0/8,192.168.1.7/32`.
    webhook_allow: str = ""
    #: The file that opens the signing secrets of webhooks; the API makes it, workers need the same one.
    webhook_key: Path | None = None
    #: Seconds between two looks for webhooks that are due.
    webhook_seconds: float = Field(default=1.0, gt=0)

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            if value and make_url(value).get_backend_name() not in ("postgresql", "sqlite"):
                raise ValueError
        except (ArgumentError, ValueError):  # neither shows the URL: a password may be in it
            raise ValueError("write postgresql://user:password@host:5432/name, or sqlite:////path/to/file") from None
        return value

    @field_validator("tsa_url")
    @classmethod
    def _authority(cls, value: str) -> str:
        if value and not re.match(r"https?://[^/\s]", value):
            raise ValueError("write http://host/path or https://host/path")
        return value

    @field_validator("log_origin")
    @classmethod
    def _origin(cls, value: str) -> str:
        if not re.fullmatch(r"[!-*,-~]{0,200}", value):
            raise ValueError("write a name without spaces and '+', such as example.com/permafrost")
        return value

    @field_validator("model_aliases")
    @classmethod
    def _aliases(cls, value: str) -> str:
        read_aliases(value)
        return value

    @field_validator("project_weights")
    @classmethod
    def _weights(cls, value: str) -> str:
        read_weights(value)
        return value

    @field_validator("project_devices")
    @classmethod
    def _limits(cls, value: str) -> str:
        read_limits(value)
        return value

    @field_validator("oidc_issuer", "public_url")
    @classmethod
    def _secure_url(cls, value: str) -> str:
        if value and not (re.fullmatch(r"https://[^/\s@?#]+(/[^\s?#]*)?", value) or _loopback_url(value)):
            raise ValueError("write https://host/path; http:// is for loopback addresses alone")
        return value

    @field_validator("oidc_groups")
    @classmethod
    def _grants(cls, value: str) -> str:
        read_grants(value)
        return value

    @model_validator(mode="after")
    def _sign_in(self) -> Self:
        if not self.oidc_issuer:
            return self
        needed = {"OIDC_CLIENT_ID": self.oidc_client_id, "OIDC_GROUPS": self.oidc_groups, "PUBLIC_URL": self.public_url}
        if missing := [f"PERMAFROST_{name}" for name, value in needed.items() if not value.strip()]:
            raise ValueError(f"PERMAFROST_OIDC_ISSUER needs {', '.join(missing)} as well")
        if "openid" not in self.oidc_scopes.split():
            raise ValueError("PERMAFROST_OIDC_SCOPES must have openid among its scopes")
        if self.auth == "off":
            raise ValueError("PERMAFROST_OIDC_ISSUER is for a service with keys, and PERMAFROST_AUTH is off")
        return self

    @field_validator("webhook_allow", "fetch_allow")
    @classmethod
    def _networks(cls, value: str) -> str:
        for each in filter(None, (part.strip() for part in value.split(","))):
            ipaddress.ip_network(each)
        return value

    @cached_property
    def home(self) -> Path:
        """The data folder as an absolute path: child processes have other working folders."""
        return self.data_dir.expanduser().absolute()

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'permafrost.db'}"

    @property
    def broker(self) -> str:
        return self.broker_url or f"filesystem://{self.home / 'broker'}"

    @property
    def storage(self) -> str:
        return self.storage_url or f"file://{self.home / 'blobs'}"

    @property
    def models(self) -> Path:
        """Folder of base models by name."""
        return (self.models_dir or self.home / "models").expanduser().absolute()

    @cached_property
    def aliases(self) -> dict[str, str]:
        """The models that other names stand for, by pattern of such a name, in the order in which they are tried."""
        return read_aliases(self.model_aliases)

    @cached_property
    def weights(self) -> dict[str, float]:
        """The weights of projects that have one; "*" is every other project."""
        return read_weights(self.project_weights)

    @cached_property
    def device_limits(self) -> dict[str, int]:
        """How many devices may run the jobs of a project at once; "*" is every other project."""
        return read_limits(self.project_devices)

    @cached_property
    def grants(self) -> tuple[Grant, ...]:
        """What members of the sign-in provider's groups may do."""
        return read_grants(self.oidc_groups)

    @property
    def signing_key_path(self) -> Path:
        return self.signing_key or self.home / "keys" / "signing.key"

    @property
    def log_key_path(self) -> Path:
        return self.log_key or self.signing_key_path.with_name("log.key")

    @property
    def webhook_key_path(self) -> Path:
        return (self.webhook_key or self.home / "keys" / "webhooks.key").expanduser().absolute()

    @property
    def work(self) -> Path:
        """Scratch space of this worker: one folder per job and attempt."""
        return self.home / "work"

    @property
    def prefix_cache(self) -> Path:
        return (self.prefix_cache_dir or self.home / "prefix-cache").expanduser().absolute()

    @property
    def offline_runs(self) -> Path:
        return (self.offline_runs_dir or self.home / "offline-runs").expanduser().absolute()

    @property
    def embedded(self) -> bool:
        return not self.broker_url

    @property
    def on_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def auth_required(self) -> bool:
        """Whether requests need a key or a session: always beyond loopback, and on it where the operator says so."""
        return self.auth == "required" or (self.auth == "" and not self.on_loopback) or bool(self.oidc_issuer)


def read_aliases(text: str) -> dict[str, str]:
    """Model ids by the pattern of the names that stand for them. ValueError where an entry is no pair of texts."""
    text = text.strip()
    if text.startswith("{"):
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except ValueError as error:
            raise ValueError(f"not a JSON object of patterns and model ids: {error}") from None
    else:
        pairs = [_pair(part) for part in text.split(",") if part.strip()]
    for pattern, model in pairs:
        if not (isinstance(model, str) and model.strip() and pattern.strip()):
            raise ValueError(f"{pattern!r} must stand for a model's id, such as gpt-4.1-mini*=minilm")
    aliases: dict[str, str] = {}
    for pattern, model in pairs:
        if pattern.strip() in aliases:
            raise ValueError(f"{pattern.strip()!r} stands for two models; leave one of them out")
        aliases[pattern.strip()] = model.strip()
    return aliases


def read_weights(text: str) -> dict[str, float]:
    """Weights by project. ValueError where an entry is no pair such as research=3."""
    weights = {}
    for project, number in _by_project(text, example="research=3").items():
        try:
            weights[project] = float(number)
        except ValueError:
            weights[project] = math.nan
        if not 0.0 < weights[project] < math.inf:
            raise ValueError(f"the weight of {project} is {number!r}: write a number above 0, such as research=3")
    return weights


def read_limits(text: str) -> dict[str, int]:
    """Numbers of devices by project. ValueError where an entry is no pair such as batch=4."""
    limits = {}
    for project, number in _by_project(text, example="batch=4").items():
        if not re.fullmatch(r"[0-9]{1,6}", number):
            raise ValueError(f"the limit of {project} is {number!r}: write a number of devices, such as batch=4")
        limits[project] = int(number)
    return limits


def read_grants(text: str) -> tuple[Grant, ...]:
    """Grants by group. ValueError where an entry is no pair such as research=search:writer."""
    text = text.strip()
    if text.startswith("{"):
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not a JSON object of groups and what they may do: {error}") from None
        pairs = [(group, each) for group, may in given.items() for each in (may if isinstance(may, list) else [may])]
    else:
        parts = [part.strip().rpartition("=") for part in text.split(",") if part.strip()]
        pairs = [(group.strip(), may.strip()) for group, _, may in parts]
    return tuple(_grant(group, may) for group, may in pairs)


def _grant(group: str, may: object) -> Grant:
    found = re.fullmatch(rf"({PROJECT_NAME}):(admin|writer|reader)", may if isinstance(may, str) else "")
    if not group or found is None:
        raise ValueError(f"{group!r} has {may!r}: write a project and a role, such as research=search:writer")
    return Grant(group, found[1], cast(Role, found[2]))


def _loopback_url(url: str) -> bool:
    return re.fullmatch(r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?(/[^\s?#]*)?", url) is not None


def _by_project(text: str, *, example: str) -> dict[str, str]:
    """Values by project, from pairs with commas between them. ValueError also where a project has two."""
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        project, _, value = (each.strip() for each in part.partition("="))
        if not (project and value):
            raise ValueError(f"{part!r} is no pair such as {example}")
        if project in values:
            raise ValueError(f"{project} is there twice")
        values[project] = value
    return values


def stands_for(aliases: Mapping[str, str], name: str) -> str | None:
    """The model that a name stands for: the first pattern that matches all of it decides. Only `*` is special."""
    for pattern, model in aliases.items():
        if re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL):
            return model
    return None


def _pair(part: str) -> tuple[str, str]:
    pattern, equals, model = part.partition("=")
    if not equals:
        raise ValueError(f"{part.strip()!r} is no pair such as gpt-4.1-mini*=minilm")
    return pattern, model
